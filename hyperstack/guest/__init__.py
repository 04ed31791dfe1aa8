"""What runs inside the VM (kernel, initramfs, C agent) and the wire protocol with its Python end."""
