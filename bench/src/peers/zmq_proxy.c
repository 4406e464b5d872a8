/* The broker that people write with ZeroMQ: XSUB for publishers, XPUB for subscribers, libzmq's own loop between them.
   zmq_proxy IO_THREADS XSUB_ENDPOINT XPUB_ENDPOINT, or without arguments: says libzmq's version. */
#include <stdio.h>
#include <stdlib.h>
#include <zmq.h>

static void *bound(void *context, int type, const char *endpoint) {
    void *socket = zmq_socket(context, type);
    /* Without a high water mark: XPUB drops what is above it, and XSUB would stop its publishers. */
    int none = 0, backlog = 4096;
    if (!socket || zmq_setsockopt(socket, ZMQ_SNDHWM, &none, sizeof none) ||
        zmq_setsockopt(socket, ZMQ_RCVHWM, &none, sizeof none) ||
        zmq_setsockopt(socket, ZMQ_BACKLOG, &backlog, sizeof backlog) || zmq_bind(socket, endpoint)) {
        fprintf(stderr, "%s: %s\n", endpoint, zmq_strerror(zmq_errno()));
        exit(1);
    }
    return socket;
}

int main(int count, char **arguments) {
    if (count != 4) {
        int major, minor, patch;
        zmq_version(&major, &minor, &patch);
        printf("libzmq %d.%d.%d\n", major, minor, patch);
        return 0;
    }
    void *context = zmq_ctx_new();
    zmq_ctx_set(context, ZMQ_IO_THREADS, atoi(arguments[1]));
    void *publishers = bound(context, ZMQ_XSUB, arguments[2]);
    void *subscribers = bound(context, ZMQ_XPUB, arguments[3]);
    zmq_proxy(publishers, subscribers, NULL);
    fprintf(stderr, "%s\n", zmq_strerror(zmq_errno()));
    return 1;
}
