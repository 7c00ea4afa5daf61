/* The yardstick of the echo benchmark: a single-threaded, edge-triggered epoll server in C.
 *
 * It prints {"port": P} and serves until it is killed. After a receive shorter than the buffer it
 * does not try again, so a request costs one receive and one send, the least that is possible; the
 * usual "receive until EAGAIN" would flatter whoever is compared with it. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_SECONDS = 120 };

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void accept_all(int listener, int poller) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EAGAIN || errno == ECONNABORTED) return;
            fail("accept4");
        }
        struct epoll_event event = {.events = EPOLLIN | EPOLLET | EPOLLRDHUP, .data.fd = fd};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) != 0) fail("epoll_ctl");
    }
}

/* Answer what is there. Waiting in place for a full send buffer is good enough here: the load
 * generator has one request outstanding on a connection and always reads its answer. */
static bool send_all(int fd, const char *bytes, ssize_t length) {
    while (length > 0) {
        ssize_t sent = send(fd, bytes, (size_t)length, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) return false;
            struct pollfd writable = {.fd = fd, .events = POLLOUT};
            poll(&writable, 1, 1000);
            continue;
        }
        bytes += sent;
        length -= sent;
    }
    return true;
}

static void echo(int fd) {
    static char bytes[65536];
    ssize_t length;
    do {
        length = recv(fd, bytes, sizeof bytes, 0);
        if (length < 0 && errno == EAGAIN) return;
        if (length <= 0 || !send_all(fd, bytes, length)) {
            close(fd);
            return;
        }
    } while (length == (ssize_t)sizeof bytes);
}

int main(void) {
    alarm(MAX_SECONDS);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t address_length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(listener, 1024) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &address_length) != 0)
        fail("listen");
    int poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.fd = listener};
    if (poller < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event) != 0) fail("epoll");
    printf("{\"port\": %d}\n", ntohs(address.sin_port));
    fflush(stdout);

    struct epoll_event events[256];
    for (;;) {
        int ready = epoll_wait(poller, events, 256, -1);
        if (ready < 0 && errno != EINTR) fail("epoll_wait");
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd == listener) accept_all(listener, poller);
            else echo(events[i].data.fd);
        }
    }
}
