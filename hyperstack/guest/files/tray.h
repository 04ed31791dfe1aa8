/* Data of large reads beside the stream, which QEMU takes a page at a time from: a piece of memory that the server shares
 * with the machine's VMM, and that the guest reads as a disk. To a server that is in another machine it is a disk, too, and
 * twice as large: the places behind the others are for data of large writes.
 *
 * Whoever carries the guest's requests says TRAY_ASK first where it has the disk. From then on an answer may have the
 * "error" TRAY_ANSWER and a record that tells where its data is. Places are used in turn, so no more than TRAY_PLACES
 * reads may be under way at once: that is the asker's to see to, whose data it is. */
#pragma once

#include <stdint.h>

#define TRAY_PLACES 8
#define TRAY_PLACE (256 * 1024) /* bytes; of the largest read */
#define TRAY_ASK 0x79617274U    /* opcode of a request without a body or an answer */
#define TRAY_ANSWER 1           /* the kernel's errors are negative */
#define TRAY_WRITE 0x77617274U  /* opcode of FUSE_WRITE with a record in place of its data */
#define TRAY_LEAST 4096         /* bytes: what one turn of the stream carries */
#define TRAY_SECTOR 512         /* disks are read and written past the page cache, in whole ones */
#define TRAY_WHOLE(size) (((size) + TRAY_SECTOR - 1U) / TRAY_SECTOR * TRAY_SECTOR)

struct tray_answer {
    uint32_t place, size;
};
