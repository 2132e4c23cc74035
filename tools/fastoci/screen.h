// SPDX-License-Identifier: Apache-2.0
// A terminal that is drawn anew as a whole: the alternate screen, keys without
// Enter. It is put back as it was by the destructor; signals that would end the
// program end Wait() instead, so that it runs.
#ifndef FASTOCI_TOOLS_FASTOCI_SCREEN_H_
#define FASTOCI_TOOLS_FASTOCI_SCREEN_H_

#include <termios.h>

#include <string>
#include <vector>

namespace fastoci {

class Screen {
 public:
  Screen();
  ~Screen();
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  // Whether standard input and output are terminals.
  static bool Possible();
  // Cut to what fits.
  void Draw(const std::vector<std::string>& lines);
  enum class Event { kTime, kResized, kQuit };
  // q, Ctrl-C and signals: kQuit.
  Event Wait(int milliseconds);

 private:
  termios before_{};
};

}  // namespace fastoci

#endif  // FASTOCI_TOOLS_FASTOCI_SCREEN_H_
