// SPDX-License-Identifier: Apache-2.0
// RoleLane: one decoder process and one lane of the fetcher, moved along by
// poll() on the lane's thread:
//
//   fetcher --Data--> input ring --Input--> decoder --Output--> sink
//           <-Consumed--          <-InputDone--     <-OutputDone--
//
// Bytes flow only while both ends of a job are alive. A job ends when both said
// so, or could be made to within kDrainMs; else the processes of this lane are
// replaced, so that no late message of an old job meets a new one. Whatever
// either says is checked: job number, totals, order. A hashing lane goes on to
// the end of its input, also where the decoder needs no more.
#ifndef FASTOCI_BROKER_ROLE_LANE_H_
#define FASTOCI_BROKER_ROLE_LANE_H_

#include <chrono>
#include <memory>
#include <set>
#include <string>

#include "broker/fetch_port.h"
#include "broker/hashing_port.h"
#include "broker/lane.h"
#include "decoder/client.h"

namespace fastoci {

class RoleLane : public Lane {
 public:
  static constexpr int kDrainMs = 5000;
  static constexpr int kStallMs = 10000;  // beyond the fetcher's own deadline

  // interrupt_fd: readable for good once jobs must end. Both outlive the lane.
  RoleLane(FetchPorts* ports, std::string decoder_program, int interrupt_fd,
           LaneKind kind = LaneKind::kPlain);
  ~RoleLane() override;
  Status Run(const LaneJob& job, const PieceSink& sink) override;
  uint64_t bytes_fetched() const override { return bytes_fetched_; }
  LaneTimes times() const override { return times_; }
  HttpTally http() const override { return http_; }
  Sha256Digest input_digest() const override { return input_digest_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct State;  // of the job in hand
  Status Begin(const LaneJob& job, bool reopen_space);
  Status Pump(State* s, const LaneJob& job, const PieceSink& sink);
  Status OpenPort();
  Status OnFetch(State* s, const FetchMessage& m);
  void EndFetch(State* s, const FetchMessage& m);
  Status OnDecode(State* s, const DecodeMessage& m, const PieceSink& sink);
  Status PassRest(State* s);
  bool Drain(State* s);
  void Reset();

  FetchPorts* const ports_;
  const std::string decoder_program_;
  const int interrupt_fd_;
  const LaneKind kind_;
  std::unique_ptr<FetchPort> port_;
  HashingPort* hashing_port_ = nullptr;  // port_, of a hashing lane
  std::unique_ptr<DecoderClient> decoder_;
  std::set<uint64_t> spaces_;  // the decoder was told, and may have forgotten
  uint32_t job_ = 0;
  uint64_t bytes_fetched_ = 0;
  LaneTimes times_;
  HttpTally http_;
  Sha256Digest input_digest_{};
  Bytes piece_;
};

class RoleLanes : public LaneFactory {
 public:
  static Result<std::unique_ptr<RoleLanes>> Make(FetchPorts* ports, std::string decoder_program);
  Result<std::unique_ptr<Lane>> NewLane(LaneKind kind) override;
  Status OpenImage(uint32_t image, ByteSpan json) override {
    return ports_->OpenImage(image, json);
  }
  void CloseImage(uint32_t image) override { ports_->CloseImage(image); }
  void Interrupt() override;

 private:
  RoleLanes(FetchPorts* ports, std::string program)
      : ports_(ports), decoder_program_(std::move(program)) {}
  FetchPorts* const ports_;
  const std::string decoder_program_;
  UniqueFd interrupt_;
};

}  // namespace fastoci

#endif  // FASTOCI_BROKER_ROLE_LANE_H_
