// SPDX-License-Identifier: Apache-2.0
// Transfer: one Fetch, from its admission by the host to its end.
//
//   cached redirect? --yes--> asked there ---refused---+
//        | no                                          v
//        +----------> Authorization (TokenSource) -> registry -> redirects, body
//                            ^                          |
//                            +---- refused, once -------+
//
// For one thread. No function blocks.
#ifndef FASTOCI_FETCHER_TRANSFER_H_
#define FASTOCI_FETCHER_TRANSFER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/result.h"
#include "fetcher/file_reader.h"
#include "fetcher/host.h"
#include "fetcher/locations.h"
#include "fetcher/redirects.h"
#include "fetcher/tokens.h"
#include "http/http_loop.h"
#include "http/range.h"

namespace fastoci {

class Transfer {
 public:
  // What it is made of; outlives it. tokens: of the location's host, null for files.
  struct Env {
    HttpLoop* http = nullptr;
    FileReader* files = nullptr;
    Redirects* redirects = nullptr;
    TokenSource* tokens = nullptr;
    std::function<void()> on_data;                // bytes came; must not end this
    std::function<void(std::optional<Error>)> on_end;  // see verdict(); once
  };

  // out: where the body goes.
  Transfer(Env env, uint64_t number, std::shared_ptr<const Location> location, uint64_t offset,
           std::span<uint8_t> out, bool fresh);
  ~Transfer();
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;

  // on_end may come at once, inside.
  void Start();
  // on_end comes with ECANCELED, at once unless a file is being read.
  void Cancel();

  uint64_t total() const { return total_; }  // bytes in out so far
  const Location& location() const { return *location_; }
  // Of the end.
  const FetchVerdict& verdict() const { return verdict_; }
  const HttpTally& tally() const { return tally_; }

 private:
  void ReadFile();
  void AskForToken();
  void TakeToken(Result<Secret> value, const TokenSource::Cost& cost);
  // away: where the registry has sent us.
  void Send(const std::string& url, Secret authorization, bool away);
  void OnAnswer(const std::string& asked, Result<HttpResponse> response);
  void OnFailure(const Error& error);
  void OnStatus(const std::string& asked, const HttpResponse& response);
  bool LeaveRedirect();  // true: asks the registry instead
  void End(FetchOutcome outcome, FetchVerdict::Fault fault, std::optional<Error> error);
  Error Describe(const Error& error) const;

  const Env env_;
  const uint64_t number_;
  const std::shared_ptr<const Location> location_;
  const uint64_t offset_;
  const std::span<uint8_t> out_;
  const bool fresh_;

  RangeReader reader_;
  RangeReader::Sink sink_;
  uint64_t total_ = 0;
  Secret authorization_;  // that the registry was asked with last
  bool at_redirect_ = false;  // asked at a cached redirect
  bool left_redirect_ = false;
  bool renewed_ = false;
  bool ended_ = false;
  uint64_t exchange_ = 0;  // that runs, or 0
  uint64_t read_ = 0;      // of the file, or 0
  HttpTally tally_;
  FetchVerdict verdict_;
};

}  // namespace fastoci

#endif  // FASTOCI_FETCHER_TRANSFER_H_
