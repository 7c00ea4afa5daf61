/* An epoll load generator for servers on 127.0.0.1: each connection has one request outstanding.
 *
 *   load port=P connections=N [bytes=64 | http=keep-alive | http=close]
 *        [warmup=SECONDS] [seconds=SECONDS] [requests=K] [pid=SERVER]
 *
 * Without http=, a request is `bytes` bytes and is answered by as many. With it, a request is a
 * fixed GET, answered by a response with a Content-Length (keep-alive), or by all that comes until
 * the server closes, after which the connection is made anew (close).
 *
 * The window opens once the warm-up is over and every connection has had an answer, and ends after
 * `seconds`. With requests=, all ends after so many, the warm-up's included. The server's CPU clock
 * (pid=) is read here, at both ends of the window, so that no other process has to be scheduled in
 * time to read it.
 *
 * It prints one line of JSON, and ends with a message and status 1 when anything goes wrong: a
 * benchmark of a server that drops connections measures nothing. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum mode { ECHO, KEEP_ALIVE, CLOSE };

enum {
    MAX_CONNECTIONS = 10000,
    MAX_MESSAGE = 16384, /* fits any socket buffer, so a send is never partial */
    MAX_HEADER = 4096,
    MAX_LATENCIES = 1 << 22,
    MAX_SECONDS = 60,
};

struct connection {
    int fd;
    bool answered_once;
    uint64_t sent_at;
    size_t body_left;           /* of the current answer; only meaningful once in_body */
    bool in_body;
    size_t header_length;
    char header[MAX_HEADER];
};

static enum mode mode = ECHO;
static int port, connection_count = 1;
static size_t message_length = 64;
static double warmup_seconds = 0.3, window_seconds = 1.0;
static uint64_t request_limit = UINT64_MAX;
static pid_t server_pid;

static char message[MAX_MESSAGE];
static char received[65536];
static struct connection *connections;
static int poller;

static bool measuring;
static int connections_answered;
static uint64_t requests;     /* in the window */
static uint64_t all_requests; /* from the start on, for who counts what the server did in all */
static uint32_t *latencies;

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static uint64_t read_clock(clockid_t clock) {
    struct timespec now;
    if (clock_gettime(clock, &now) != 0) fail("clock_gettime: %s", strerror(errno));
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void send_request(struct connection *connection) {
    connection->in_body = mode == ECHO;
    connection->body_left = message_length;
    connection->header_length = 0;
    connection->sent_at = read_clock(CLOCK_MONOTONIC);
    ssize_t sent = send(connection->fd, message, message_length, MSG_NOSIGNAL);
    if (sent < 0) fail("send: %s", strerror(errno));
    if ((size_t)sent != message_length) fail("sent %zd bytes of %zu", sent, message_length);
}

static void open_connection(struct connection *connection) {
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    int one = 1;
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection->fd < 0) fail("socket: %s", strerror(errno));
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(connection->fd, (struct sockaddr *)&address, sizeof address) != 0)
        fail("connect: %s", strerror(errno));
    fcntl(connection->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, connection->fd, &event) != 0)
        fail("epoll_ctl: %s", strerror(errno));
}

static void answer_complete(struct connection *connection) {
    if (!connection->answered_once) {
        connection->answered_once = true;
        connections_answered++;
    }
    all_requests++;
    if (measuring) {
        uint64_t latency = read_clock(CLOCK_MONOTONIC) - connection->sent_at;
        latencies[requests % MAX_LATENCIES] = latency > UINT32_MAX ? UINT32_MAX : (uint32_t)latency;
        requests++;
    }
    if (mode == CLOSE) {
        close(connection->fd);
        open_connection(connection);
    }
    send_request(connection);
}

/* Take what is header from `bytes`; return how many bytes that was. */
static size_t take_header(struct connection *connection, const char *bytes, size_t length) {
    size_t before = connection->header_length;
    size_t room = MAX_HEADER - 1 - before;
    size_t copied = length < room ? length : room;
    memcpy(connection->header + before, bytes, copied);
    connection->header_length += copied;
    connection->header[connection->header_length] = '\0';
    char *end = strstr(connection->header, "\r\n\r\n");
    if (end == NULL) {
        if (connection->header_length == MAX_HEADER - 1) fail("the response's header is too long");
        return copied;
    }
    if (memcmp(connection->header, "HTTP/1.", 7) != 0 ||
        memcmp(connection->header + 8, " 200", 4) != 0)
        fail("unexpected response: %.40s", connection->header);
    char *field = strcasestr(connection->header, "\r\nContent-Length:");
    if (field == NULL || field > end) fail("the response has no Content-Length");
    connection->body_left = strtoul(field + strlen("\r\nContent-Length:"), NULL, 10);
    connection->in_body = true;
    return (size_t)(end - connection->header) + 4 - before;
}

static void receive(struct connection *connection) {
    ssize_t length = recv(connection->fd, received, sizeof received, 0);
    if (length < 0) {
        if (errno == EAGAIN) return;
        fail("recv: %s", strerror(errno));
    }
    if (length == 0) {
        if (mode == CLOSE && connection->in_body && connection->body_left == 0) {
            answer_complete(connection);
            return;
        }
        fail("the server closed a connection early");
    }
    size_t used = 0;
    while (!connection->in_body && used < (size_t)length)
        used += take_header(connection, received + used, (size_t)length - used);
    if (!connection->in_body) return;
    size_t body = (size_t)length - used;
    if (body > connection->body_left) fail("the server answered more than was asked for");
    connection->body_left -= body;
    if (connection->body_left == 0 && mode != CLOSE) answer_complete(connection);
}

static int compare(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static double percentile_us(size_t count, double fraction) {
    return count == 0 ? 0 : latencies[(size_t)((double)(count - 1) * fraction)] / 1e3;
}

static void parse(int count, char **options) {
    for (int i = 1; i < count; i++) {
        char *value = strchr(options[i], '=');
        if (value == NULL) fail("expected name=value, not %s", options[i]);
        *value++ = '\0';
        const char *name = options[i];
        if (strcmp(name, "port") == 0) port = atoi(value);
        else if (strcmp(name, "connections") == 0) connection_count = atoi(value);
        else if (strcmp(name, "bytes") == 0) message_length = strtoul(value, NULL, 10);
        else if (strcmp(name, "warmup") == 0) warmup_seconds = atof(value);
        else if (strcmp(name, "seconds") == 0) window_seconds = atof(value);
        else if (strcmp(name, "requests") == 0) request_limit = strtoull(value, NULL, 10);
        else if (strcmp(name, "pid") == 0) server_pid = (pid_t)atoi(value);
        else if (strcmp(name, "http") == 0) mode = strcmp(value, "close") == 0 ? CLOSE : KEEP_ALIVE;
        else fail("unknown option %s", name);
    }
    if (port <= 0 || port > 65535) fail("port= is missing");
    if (connection_count < 1 || connection_count > MAX_CONNECTIONS)
        fail("connections= must be 1 to %d", MAX_CONNECTIONS);
    if (message_length < 1 || message_length > MAX_MESSAGE)
        fail("bytes= must be 1 to %d", MAX_MESSAGE);
    if (warmup_seconds + window_seconds > MAX_SECONDS) fail("that would take too long");
}

int main(int count, char **options) {
    alarm(MAX_SECONDS + 10);
    parse(count, options);
    memset(message, 'x', sizeof message);
    if (mode != ECHO)
        message_length = (size_t)snprintf(
            message, sizeof message, "GET / HTTP/1.%d\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n",
            mode == KEEP_ALIVE);

    clockid_t server_clock = CLOCK_PROCESS_CPUTIME_ID;
    if (server_pid != 0 && clock_getcpuclockid(server_pid, &server_clock) != 0)
        fail("there is no process %d", (int)server_pid);
    poller = epoll_create1(EPOLL_CLOEXEC);
    connections = calloc((size_t)connection_count, sizeof *connections);
    latencies = malloc(MAX_LATENCIES * sizeof *latencies);
    if (poller < 0 || connections == NULL || latencies == NULL) fail("%s", strerror(errno));

    uint64_t begin = read_clock(CLOCK_MONOTONIC), end = 0, now = begin;
    uint64_t window_opens = begin + (uint64_t)(warmup_seconds * 1e9);
    uint64_t give_up = begin + (uint64_t)MAX_SECONDS * 1000000000u;
    uint64_t server_cpu = read_clock(server_clock);
    for (int i = 0; i < connection_count; i++) {
        open_connection(&connections[i]);
        send_request(&connections[i]);
    }

    struct epoll_event events[256];
    for (;;) {
        int ready = epoll_wait(poller, events, 256, 20);
        if (ready < 0 && errno != EINTR) fail("epoll_wait: %s", strerror(errno));
        for (int i = 0; i < ready; i++) receive(events[i].data.ptr);
        now = read_clock(CLOCK_MONOTONIC);
        if (!measuring && now >= window_opens && connections_answered == connection_count) {
            measuring = true;
            begin = now;
            end = begin + (uint64_t)(window_seconds * 1e9);
            server_cpu = read_clock(server_clock);
        } else if ((measuring && now >= end) || all_requests >= request_limit) {
            break;
        }
        if (now > give_up)
            fail("gave up: %d of %d connections were answered", connections_answered,
                 connection_count);
    }
    server_cpu = read_clock(server_clock) - server_cpu;

    size_t kept = requests < MAX_LATENCIES ? (size_t)requests : MAX_LATENCIES;
    qsort(latencies, kept, sizeof *latencies, compare);
    printf("{\"requests\": %llu, \"all_requests\": %llu, \"wall_ns\": %llu, \"server_cpu_ns\": %llu, "
           "\"p50_us\": %.1f, \"p90_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f}\n",
           (unsigned long long)requests, (unsigned long long)all_requests,
           (unsigned long long)(now - begin),
           (unsigned long long)(server_pid == 0 ? 0 : server_cpu), percentile_us(kept, 0.5),
           percentile_us(kept, 0.9), percentile_us(kept, 0.99), percentile_us(kept, 1.0));
    return 0;
}
