/* A resolver that takes its time, without a network: preloaded (LD_PRELOAD) into a benchmark, it
 * takes the place of the C library's getaddrinfo, below Python and below Rust, so every runtime
 * meets the same one whichever way it gets there.
 *
 * A name that ends in ".slow.test" resolves to 127.0.0.53 after 50 ms; the benchmark asserts that
 * address, so a runtime that resolves by other means is found out. All else is passed on. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <time.h>

typedef int resolver(const char *, const char *, const struct addrinfo *, struct addrinfo **);

static const char suffix[] = ".slow.test";

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **result) {
    resolver *real = (resolver *)dlsym(RTLD_NEXT, "getaddrinfo");
    size_t length = node == NULL ? 0 : strlen(node);
    if (length >= sizeof suffix && strcmp(node + length - strlen(suffix), suffix) == 0) {
        struct timespec delay = {.tv_nsec = 50 * 1000 * 1000};
        nanosleep(&delay, NULL);
        node = "127.0.0.53";
    }
    return real(node, service, hints, result);
}
