// SPDX-License-Identifier: Apache-2.0
// When something that fails is asked again (Gate), and how much is asked of it at a
// time (Window). Pure: no clock, no I/O; times are milliseconds on one clock.
#ifndef FASTOCI_FETCHER_GATE_H_
#define FASTOCI_FETCHER_GATE_H_

#include <cstdint>

#include "fetcher/protocol.h"

namespace fastoci {

struct GateTimes {
  int64_t first_delay_ms = 250;
  int64_t max_delay_ms = 30000;
  int64_t retry_after_cap_ms = 300000;
  // All of them, and what a server asks for, by that much.
  int64_t scale_percent = 100;
};

//           Fail                      Fail: twice as long
//   kOpen ---------> kGated <----------------------+
//     ^                |  until_ms has passed       |
//     |                v                            |
//     +----------- kProbing: one request at a time -+
//       Succeed
//
// The outcome of a request that began before the gate closed does not count: it neither
// makes the wait longer nor opens the gate. A Retry-After always counts.
class Gate {
 public:
  HostGate State(int64_t now) const;
  int64_t until_ms() const { return until_; }  // of the last closing; 0 while open
  int64_t since_ms() const { return since_; }  // first failure since it was open, or 0
  // Whether a request may begin now. *probe: it is the one request of kProbing. Then the
  // caller must call EndProbe() when it has ended, whatever its outcome.
  bool Enter(int64_t now, bool* probe);
  void EndProbe() { probing_ = false; }
  // The outcome of a request that began at `started`. retry_after_ms: what the server asked
  // for, or -1. random: 0..999, spreads the waits of several nodes.
  void Fail(int64_t now, int64_t started, int64_t retry_after_ms, unsigned random,
            const GateTimes& times);
  void Succeed(int64_t started);
  // Opens the gate at once. False: it was not closed.
  bool Open();

 private:
  int failures_ = 0;  // in a row
  bool probing_ = false;
  int64_t closed_ = 0;  // when it closed last
  int64_t until_ = 0;
  int64_t since_ = 0;
};

// How many requests a host takes at a time: kFirst until it has answered, so that a host
// that never does holds little, and then kMost. Fewer would make a burst of readers wait for
// more round trips. It halves when the host is overloaded or a connection breaks. From then
// on it grows by one for each window of successes that brought more bytes.
class Window {
 public:
  static constexpr uint32_t kFirst = 24;
  static constexpr uint32_t kMost = 64;

  uint32_t size() const { return size_; }
  // in_flight: with this one.
  void Begin(int64_t now, uint32_t in_flight);
  void Succeed(int64_t now, uint64_t bytes);
  // Once per round trip: not for requests that began before it shrank last.
  void Shrink(int64_t now, int64_t started);

 private:
  void EndRound(int64_t now);

  uint32_t size_ = kFirst;
  bool is_first_ = true;  // it has neither answered nor shrunk
  int64_t shrunk_ = INT64_MIN;
  // A round: as many successes as the window had room for.
  int64_t round_begin_ = -1;
  uint32_t round_size_ = 0;
  uint32_t successes_ = 0;
  uint64_t bytes_ = 0;
  bool full_ = false;      // the window was what held requests back
  double last_rate_ = 0;   // bytes per ms of the last full round
};

}  // namespace fastoci

#endif  // FASTOCI_FETCHER_GATE_H_
