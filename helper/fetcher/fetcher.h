// SPDX-License-Identifier: Apache-2.0
// The fetcher: one thread that waits for its sockets, the network, files and the
// credentials at the same time, and never for only one of them. protocol.h has the
// requests. This class serves the control socket, and Fetches serves the work socket.
#ifndef FASTOCI_FETCHER_FETCHER_H_
#define FASTOCI_FETCHER_FETCHER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "fetcher/fetches.h"
#include "fetcher/file_reader.h"
#include "fetcher/keeper.h"
#include "fetcher/locations.h"
#include "fetcher/outbox.h"
#include "fetcher/protocol.h"
#include "http/http_loop.h"

namespace fastoci {

class Fetcher {
 public:
  struct Options {
    bool plain_http = false;  // "http" is fine for every host, see places.h
    std::string p2p, p2p_proxy;  // see places.h
    HttpOptions http;
    GateTimes times;
  };
  // arena: see client.h. keeper: must outlive it.
  static Result<std::unique_ptr<Fetcher>> Open(UniqueFd control, UniqueFd work,
                                               const UniqueFd& arena, Options options,
                                               Keeper* keeper);
  ~Fetcher();
  Fetcher(const Fetcher&) = delete;
  Fetcher& operator=(const Fetcher&) = delete;

  // Serves until a socket closes, and then returns OK. An error: the broker broke the
  // protocol, or the system failed.
  Status Run();

 private:
  Fetcher(UniqueFd control, UniqueFd work, Options options, Keeper* keeper);
  Status MapArena(const UniqueFd& arena);
  struct Ready {
    bool control = false, work = false, files = false;
  };
  Result<Ready> Wait();
  Status ServeControl();
  Status ServeWork();
  void Handle(const ControlMessage& m, const std::vector<UniqueFd>& fds);
  // An image about which the keeper is asked.
  struct Opening {
    uint32_t call, image;
    FetchImage parsed;
    Knowledge knowledge;
    size_t unanswered = 0;
    std::optional<Error> error;
  };
  Status OpenImage(const ControlMessage& m, const std::vector<UniqueFd>& fds);
  void Answered(const std::shared_ptr<Opening>& opening);
  Status FinishOpening(const Opening& opening);
  void Forget(const Locations::Gone& gone);
  void Fail(uint32_t call, const Error& error);

  const UniqueFd control_, work_;
  const Options options_;
  std::span<uint8_t> arena_;
  Keeper* const keeper_;
  Locations locations_;
  Outbox control_out_, work_out_;
  std::unique_ptr<HttpLoop> http_;
  std::unique_ptr<FileReader> files_;
  std::unique_ptr<Fetches> fetches_;
};

}  // namespace fastoci

#endif  // FASTOCI_FETCHER_FETCHER_H_
