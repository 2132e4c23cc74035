// SPDX-License-Identifier: Apache-2.0
// Host: what is known of one server, and which Fetches may ask it now. Pure: no clock, no
// I/O; times are milliseconds on CLOCK_MONOTONIC.
//
// Three gates can refuse a Fetch, from the widest to the narrowest:
//   the host's       no answer, 408, 429, 5xx: nobody asks
//   a scope's        credentials that are refused, a token server that fails:
//                    nobody asks for that repository
//   a location's     what concerns one blob (an odd status), or failed while others
//                    of the host succeeded: that blob waits
// Local files have the third kind only.
#ifndef FASTOCI_FETCHER_HOST_H_
#define FASTOCI_FETCHER_HOST_H_

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "fetcher/gate.h"
#include "fetcher/protocol.h"

namespace fastoci {

// What a Fetch that ended says of its host.
struct FetchVerdict {
  enum class Fault {
    kNone,
    kOverload,     // 429, or a Retry-After: the whole host asks to be left alone
    kServer,       // no answer, broken off, 408, 5xx
    kCredentials,  // refused, also after they were renewed
    kTokenServer,  // no token to be had now
    kLocation,     // this blob alone
  };
  FetchOutcome outcome = FetchOutcome::kDone;
  Fault fault = Fault::kNone;   // kTransient
  int64_t retry_after_ms = -1;  // as the server asked
  uint32_t http_status = 0;     // 0: no answer
  std::string cause;            // short, without the blob's name
  uint32_t requests = 0;        // HTTP requests that it took
  uint64_t bytes = 0;
};

class Host {
 public:
  // random: 0..999; called when a gate closes.
  Host(uint32_t number, std::string name, const GateTimes& times,
       std::function<unsigned()> random)
      : number_(number), name_(std::move(name)), times_(times), random_(std::move(random)) {}

  // What Enter() gives and Leave() takes back.
  struct Ticket {
    std::string scope;
    uint32_t location = 0;
    int64_t started = 0;
    bool host_probe = false, scope_probe = false, location_probe = false;
  };
  struct Refusal {
    int64_t retry_at_ms = 0;  // 0: no room in the window
    std::string cause;
  };
  // Whether a Fetch may begin now. False: *refusal says why not.
  bool Enter(int64_t now, const std::string& scope, uint32_t location, Ticket* ticket,
             Refusal* refusal);
  // A Fetch has ended. Returns the time until which the location is refused; 0: it is not.
  int64_t Leave(int64_t now, const Ticket& ticket, const FetchVerdict& verdict);

  // Opens all gates. Returns whether one was closed.
  bool Open();
  // Opens the gate of a scope that refused credentials had closed.
  bool OpenForCredentials(const std::string& scope);
  // The scopes whose credentials were refused.
  std::vector<std::string> WaitForCredentials() const;
  // Nobody will ask for this location again.
  void Forget(uint32_t location) { locations_.erase(location); }
  // Drops gates at which nobody has asked for long: their images are gone.
  void Prune(int64_t now);

  // Whether the state has changed since the last call, counters apart. It has changed when
  // the time of a gate has passed.
  bool TakeChanged(int64_t now);
  // When the state changes by itself; INT64_MAX: it does not.
  int64_t NextChangeMs(int64_t now) const;
  // The Host reply as of now.
  WorkReply Reply(int64_t now) const;
  // Fetches that ended so far, and HTTP requests: changes with each counter.
  uint64_t Activity() const { return requests_ + ended_; }

  uint32_t number() const { return number_; }
  const std::string& name() const { return name_; }
  uint32_t in_flight() const { return in_flight_; }
  bool gated() const { return gate_.since_ms() != 0; }

 private:
  struct NarrowGate {
    Gate gate;
    bool credentials = false;
    std::string cause;
  };
  bool local() const { return number_ == kLocalHost; }
  uint32_t WindowSize(int64_t now) const;
  template <typename Key>
  static void Succeed(std::map<Key, NarrowGate>* gates, const Key& key, int64_t started);
  void Judge(int64_t now, const Ticket& ticket, const FetchVerdict& verdict);
  void Fail(int64_t now, const Ticket& ticket, const FetchVerdict& verdict);

  const uint32_t number_;
  const std::string name_;
  const GateTimes times_;
  const std::function<unsigned()> random_;

  Gate gate_;
  Window window_;
  std::map<std::string, NarrowGate> scopes_;   // those that are closed
  std::map<uint32_t, NarrowGate> locations_;   // those that are closed
  uint32_t in_flight_ = 0;
  int64_t last_success_ = INT64_MIN;
  uint32_t http_status_ = 0;  // of the last failure
  std::string cause_;         // of the last failure

  uint32_t openings_ = 0;
  uint64_t requests_ = 0;
  uint64_t bytes_ = 0;
  uint64_t ended_ = 0;
  std::array<uint64_t, kFetchOutcomes> outcomes_{};

  HostGate told_gate_ = HostGate::kOpen;
  uint32_t told_window_ = 0;
  uint32_t told_openings_ = 0;
};

}  // namespace fastoci

#endif  // FASTOCI_FETCHER_HOST_H_
