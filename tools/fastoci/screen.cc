// SPDX-License-Identifier: Apache-2.0
#include "tools/fastoci/screen.h"

#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace fastoci {
namespace {

constexpr int kEnd[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};

volatile sig_atomic_t g_quit = 0;
volatile sig_atomic_t g_resized = 0;

void OnEnd(int) { g_quit = 1; }
void OnResize(int) { g_resized = 1; }

void Handle(int signal, void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;  // without SA_RESTART: poll() ends
  ::sigaction(signal, &action, nullptr);
}

void Write(const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t n = ::write(STDOUT_FILENO, text.data() + done, text.size() - done);
    if (n < 0 && errno != EINTR) return;
    if (n > 0) done += static_cast<size_t>(n);
  }
}

}  // namespace

bool Screen::Possible() { return ::isatty(STDIN_FILENO) == 1 && ::isatty(STDOUT_FILENO) == 1; }

Screen::Screen() {
  ::tcgetattr(STDIN_FILENO, &before_);
  for (int signal : kEnd) Handle(signal, OnEnd);
  Handle(SIGWINCH, OnResize);
  Handle(SIGTSTP, SIG_IGN);  // stopped, it would leave the terminal as it is
  termios raw = before_;
  raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
  raw.c_cc[VMIN] = 1;
  raw.c_cc[VTIME] = 0;
  ::tcsetattr(STDIN_FILENO, TCSANOW, &raw);
  Write("\033[?1049h\033[?25l");
}

Screen::~Screen() {
  Write("\033[?25h\033[?1049l");
  ::tcsetattr(STDIN_FILENO, TCSANOW, &before_);
}

void Screen::Draw(const std::vector<std::string>& lines) {
  winsize size = {};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_row == 0) size = {24, 80, 0, 0};
  std::string out = "\033[H";
  const size_t n = std::min<size_t>(lines.size(), size.ws_row);
  for (size_t i = 0; i < n; i++) {
    out += lines[i].substr(0, size.ws_col) + "\033[K";
    if (i + 1 < n) out += "\r\n";
  }
  Write(out + "\033[J");
}

Screen::Event Screen::Wait(int milliseconds) {
  if (g_quit) return Event::kQuit;
  pollfd fd = {STDIN_FILENO, POLLIN, 0};
  const int ready = ::poll(&fd, 1, milliseconds);
  if (g_quit) return Event::kQuit;
  if (g_resized) {
    g_resized = 0;
    return Event::kResized;
  }
  if (ready <= 0) return Event::kTime;
  char key = 0;
  if (::read(STDIN_FILENO, &key, 1) <= 0 || key == 'q' || key == 'Q') return Event::kQuit;
  return Event::kTime;
}

}  // namespace fastoci
