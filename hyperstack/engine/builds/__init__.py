"""Builds of images from Dockerfiles.

    request   what a client asks for, and what it is told
    service   builds, their cache, and what a killed daemon left of them
    builder   one build: stages and steps, cached or carried out
    changes   what a commit or an import is told of it
    config    what instructions change of an image's configuration
    arguments build arguments and the variables of a stage
    runner    RUN: a container in a machine of its own, whose changes become a layer
    copies    COPY and ADD: layers out of contexts, images and downloads
    sources   contexts and files from elsewhere, and who may be asked for them

No step of a build runs on the host, and no file system of a tenant's is mounted by it.
"""
