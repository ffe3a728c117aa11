// The component of the benches: as small as a program can be, so that what is measured is the
// supervisor and not the supervised.
//
//   beat LOG NAME                says when it started, then sleeps until it is ended
//   beat LOG NAME serve PORT     the same, and answers every HTTP request with 200
//   beat LOG NAME late PORT      the same, but only 50 ms after its start
//   beat LOG NAME spew BYTES     the same, and first writes so many bytes of numbered lines
//   beat LOG NAME crash          says nothing and exits with 3
//
// What it says is one line `NAME PID NANOSECONDS` (CLOCK_MONOTONIC), appended to LOG in one write;
// after spewing, also `NAME.done PID NANOSECONDS LONGEST`, the longest that one write took.
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { LINE = 100 };

static long long now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void say(const char *log, const char *text) {
  int fd = open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 || write(fd, text, strlen(text)) < 0) _exit(97);
  close(fd);
}

static void spew(const char *log, const char *name, long long bytes) {
  static char block[LINE * 640];
  char text[200];
  long long longest = 0;
  long long lines = bytes / LINE;
  memset(block, 'x', sizeof block);
  for (long long line = 0; line < lines;) {
    size_t size = 0;
    for (; size < sizeof block && line < lines; size += LINE, line++) {
      char number[32];
      snprintf(number, sizeof number, "%012lld ", line);
      memcpy(block + size, number, 13);
      block[size + LINE - 1] = '\n';
    }
    for (size_t at = 0; at < size;) {
      long long before = now();
      ssize_t written = write(1, block + at, size - at);
      long long took = now() - before;
      if (took > longest) longest = took;
      if (written < 0) _exit(98);
      at += (size_t)written;
    }
  }
  snprintf(text, sizeof text, "%s.done %d %lld %lld\n", name, getpid(), now(), longest);
  say(log, text);
}

static void serve(int port) {
  static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
  int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(listener, (struct sockaddr *)&at, sizeof at) < 0 || listen(listener, 64) < 0) _exit(99);
  for (;;) {
    char request[2048];
    int peer = accept(listener, 0, 0);
    if (peer < 0) continue;
    if (read(peer, request, sizeof request) > 0) {
      if (write(peer, answer, sizeof answer - 1) < 0) { /* The asker is gone; the next will come. */ }
    }
    close(peer);
  }
}

int main(int argc, char **argv) {
  char text[200];
  long long started = now();
  if (argc < 3) return 96;
  if (argc == 4 && !strcmp(argv[3], "crash")) return 3;
  snprintf(text, sizeof text, "%s %d %lld\n", argv[2], getpid(), started);
  say(argv[1], text);
  if (argc == 5 && !strcmp(argv[3], "spew")) spew(argv[1], argv[2], atoll(argv[4]));
  if (argc == 5 && !strcmp(argv[3], "serve")) serve(atoi(argv[4]));
  if (argc == 5 && !strcmp(argv[3], "late")) {
    usleep(50 * 1000);
    serve(atoi(argv[4]));
  }
  for (;;) pause();
}
