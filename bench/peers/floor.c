/* The floor: what the system calls of a broadcast cost when a program does nothing else.

   It takes the same requests as the peers, but looks at no more of them than it must: GET /ws/N and
   GET /sse/N are answered with a fixed head and kept in room N, where N < 65536; POST /publish has a body of
   lines "N<TAB>text" and writes each run of lines for one room to all of its sockets with one write each.
   A socket that is not writable loses the message: nothing is buffered.

   cc -O2 -o floor floor.c && ./floor PORT */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ROOMS = 65536, FILES = 65536, HEAD = 4096, BODY = 1 << 22, EVENTS = 1024 };

struct room { int *files; int count, space; int sse; };
static struct room rooms[ROOMS];
static int room_of[FILES]; /* 0: a connection that has asked for nothing yet; else room + 1 */
static char request[BODY], out[BODY * 2];

static void join(int file, int number, int sse) {
    struct room *room = &rooms[number];
    if (room->count == room->space) {
        room->space = room->space ? room->space * 2 : 4;
        room->files = realloc(room->files, sizeof(int) * room->space);
    }
    room->sse = sse;
    room->files[room->count++] = file;
    room_of[file] = number + 1;
}

static void leave(int file) {
    if (room_of[file]) {
        struct room *room = &rooms[room_of[file] - 1];
        for (int i = 0; i < room->count; i++)
            if (room->files[i] == file) room->files[i--] = room->files[--room->count];
        room_of[file] = 0;
    }
    close(file);
}

static size_t encode(const struct room *room, const char *text, size_t length, char *to) {
    if (room->sse)
        return sprintf(to, "%zx\r\ndata: %.*s\n\n\r\n", length + 8, (int)length, text);
    size_t at = 0;
    to[at++] = (char)0x81;
    if (length < 126) to[at++] = (char)length;
    else { to[at++] = 126; to[at++] = (char)(length >> 8); to[at++] = (char)length; }
    memcpy(to + at, text, length);
    return at + length;
}

static void publish(char *body, char *end) {
    while (body < end) {
        int number = atoi(body) % ROOMS;
        struct room *room = &rooms[number];
        size_t size = 0;
        while (body < end && atoi(body) % ROOMS == number) {
            char *text = memchr(body, '\t', end - body);
            char *stop = memchr(body, '\n', end - body);
            if (!text || !stop) return;
            size += encode(room, text + 1, stop - text - 1, out + size);
            body = stop + 1;
        }
        for (int i = 0; i < room->count; i++)
            if (write(room->files[i], out, size) < 0 && errno != EAGAIN) perror("write");
    }
}

static void say(int file, const char *text) {
    if (write(file, text, strlen(text)) < 0) perror("write");
}

static void answer(int file, ssize_t got) {
    request[got] = 0;
    if (!strncmp(request, "GET /ws/", 8)) {
        join(file, atoi(request + 8) % ROOMS, 0);
        say(file, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
    } else if (!strncmp(request, "GET /sse/", 9)) {
        join(file, atoi(request + 9) % ROOMS, 1);
        say(file, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
    } else {
        char *body, *length;
        while (!(body = strstr(request, "\r\n\r\n"))) { /* the rest is on its way: loopback, one publisher */
            ssize_t more = read(file, request + got, BODY - 1 - got);
            if (more > 0) request[got += more] = 0;
            else if (more == 0 || errno != EAGAIN) { leave(file); return; }
        }
        length = strstr(request, "Content-Length: ");
        if (!length) { leave(file); return; }
        body += 4;
        long size = atol(length + 16);
        while (request + got < body + size) {
            ssize_t more = read(file, request + got, BODY - 1 - got);
            if (more > 0) got += more;
            else if (more == 0 || errno != EAGAIN) { leave(file); return; }
        }
        publish(body, body + size);
        say(file, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        got -= body + size - request; /* a next request may be right behind */
        memmove(request, body + size, got + 1);
        if (got > 0) answer(file, got);
    }
}

static void serve(int file) {
    ssize_t got = read(file, request, BODY - 1);
    if (got <= 0) { leave(file); return; }
    if (!room_of[file]) answer(file, got); /* a watcher's own words mean nothing here */
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    signal(SIGPIPE, SIG_IGN);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1, poll = epoll_create1(0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) {
        perror("listen");
        return 1;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[EVENTS];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(poll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd != listener) { serve(events[i].data.fd); continue; }
            int file;
            while ((file = accept4(listener, 0, 0, SOCK_NONBLOCK)) >= 0) {
                if (file >= FILES) { close(file); continue; }
                setsockopt(file, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                event.events = EPOLLIN;
                event.data.fd = file;
                epoll_ctl(poll, EPOLL_CTL_ADD, file, &event);
            }
        }
    }
}
