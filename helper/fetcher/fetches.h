// SPDX-License-Identifier: Apache-2.0
// Fetches: the Fetches that run, the hosts that they go to, and what the broker is
// told of both. The work socket's half of the fetcher.
//
// For one thread. Times: CLOCK_MONOTONIC, ms.
#ifndef FASTOCI_FETCHER_FETCHES_H_
#define FASTOCI_FETCHER_FETCHES_H_

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "fetcher/file_reader.h"
#include "fetcher/host.h"
#include "fetcher/keeper.h"
#include "fetcher/locations.h"
#include "fetcher/outbox.h"
#include "fetcher/redirects.h"
#include "fetcher/tokens.h"
#include "fetcher/transfer.h"
#include "http/http_loop.h"

namespace fastoci {

class Fetches {
 public:
  // All must outlive it.
  struct Env {
    HttpLoop* http = nullptr;
    FileReader* files = nullptr;
    Keeper* keeper = nullptr;
    Locations* locations = nullptr;
    Outbox* outbox = nullptr;
    std::span<uint8_t> arena;
    GateTimes times;
  };
  explicit Fetches(Env env);

  void AddHost(uint32_t number, const std::string& name, const Server& server);
  // No image names that host any more. Fetches that run there go on.
  void DropHost(uint32_t number);
  // No image names that location any more.
  void Forget(const Location& location);
  // An Error: the broker breaks the protocol.
  Status Handle(const WorkRequest& request);
  // To be called after anything has happened, and when TimeoutMs() has passed.
  void Tick();
  int TimeoutMs() const;  // -1: none

 private:
  struct HostEntry {
    Host host;
    TokenSource tokens;
    bool dropped = false;
    bool changed = true;
    int64_t sent_ms = 0;  // 0: never
    uint64_t sent_activity = 0;
  };
  struct Running {
    WorkRequest request;
    std::shared_ptr<HostEntry> host, token_host;  // token_host: null for files
    Host::Ticket ticket;
    std::unique_ptr<Transfer> transfer;
    uint64_t told = 0;        // bytes, by Data
    int64_t told_ms = 0;      // when, or when it began
    bool untold = false;      // it is in untold_
    int64_t last_byte_ms = 0;
  };
  Status Start(const WorkRequest& request);
  void Refuse(const WorkRequest& request, FetchOutcome outcome, const Error& error,
              int64_t retry_at_ms = 0);
  void OnData(Running* r);
  void OnEnd(Running* r, const std::optional<Error>& error);
  void TellData(Running* r, int64_t now);
  void SendHost(HostEntry* entry, int64_t now);
  void OpenGates(uint32_t host);
  void LookForCredentials(int64_t now);
  TokenSource::Env TokenEnv(const Server& server);
  void FindGiven(const Server& server, const TokenScope& scope, TokenSource::FoundDone done);

  const Env env_;
  Redirects redirects_;
  std::minstd_rand random_{std::random_device{}()};
  std::map<uint32_t, std::shared_ptr<HostEntry>> hosts_;
  std::map<uint32_t, std::unique_ptr<Running>> running_;  // by id
  std::set<uint32_t> untold_;                             // have bytes that Data told not
  std::vector<std::unique_ptr<Running>> ended_;           // deleted by Tick()
  uint64_t next_transfer_ = 1;
  int64_t next_look_ms_ = INT64_MAX;  // for credentials
};

}  // namespace fastoci

#endif  // FASTOCI_FETCHER_FETCHES_H_
