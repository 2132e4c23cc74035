// SPDX-License-Identifier: Apache-2.0
// FakeFetchService: a FetchService in this process, for tests of its users. It numbers
// locations and hosts as the fetcher does. Unless a test says otherwise, it answers each
// Fetch at once from blobs in memory. Thread-safe.
#ifndef FASTOCI_TESTING_FAKE_FETCH_SERVICE_H_
#define FASTOCI_TESTING_FAKE_FETCH_SERVICE_H_

#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "fetcher/client.h"

namespace fastoci {

class FakeFetchService : public FetchService {
 public:
  // arena: where bodies go; outlives this.
  explicit FakeFetchService(std::span<uint8_t> arena);

  // Sets what every location of that digest serves.
  void AddBlob(const std::string& digest, std::string data);
  // Sets what that one location serves instead, for example wrong bytes.
  void SetData(uint32_t location, std::string data);
  // The next count Fetches at the location give `total` bytes, and then fail in this way.
  struct Failure {
    FetchOutcome outcome = FetchOutcome::kTransient;
    int count = 1;
    uint64_t total = 0;
    int64_t retry_at_ms = 0;
    Error error = {ErrorKind::kUnavailable, EIO, "injected"};
  };
  void Fail(uint32_t location, Failure failure);
  // While held, Fetches at that host stay unanswered; Cancel still ends them.
  void Hold(uint32_t host, bool on);
  // Those that wait now, or of them those of one class; the next ones are held.
  void AnswerHeld(uint32_t host, std::optional<uint8_t> miss_class = {});
  // Sends a Host event and keeps the state; Fetches beyond its window, or while it
  // is gated, fail with kGated.
  void SetHost(HostState state);
  // Everything fails with EPIPE from now on, like a fetcher that was killed.
  void Die();

  std::vector<FetchRequest> Fetches();  // all so far
  size_t running();                     // not answered
  int gates_opened();

  Result<std::vector<std::vector<FetchLocation>>> OpenImage(uint32_t image,
                                                            const std::string& image_id,
                                                            ByteSpan json) override;
  Status CloseImage(uint32_t image) override;
  Status Fetch(const FetchRequest& request) override;
  Status Cancel(uint32_t id) override;
  Status OpenGate(uint32_t host) override;
  int event_fd() const override { return event_.get(); }
  Result<FetchEvent> Receive() override;

 private:
  void AnswerAll(uint32_t host, std::optional<uint8_t> miss_class = {});  // with mutex_ held
  struct Place {
    std::string digest;
    uint32_t host = 0;
  };
  void Answer(const FetchRequest& request);
  void Push(FetchEvent event);
  void Finish(uint32_t id, uint64_t total, FetchOutcome outcome, Error error,
              int64_t retry_at_ms);

  std::span<uint8_t> arena_;
  UniqueFd event_;
  std::mutex mutex_;
  // All below are guarded by mutex_.
  bool dead_ = false;
  int gates_opened_ = 0;
  std::map<std::string, uint32_t> location_numbers_, host_numbers_;
  std::map<uint32_t, Place> places_;
  std::map<std::string, std::string> blobs_;
  std::map<uint32_t, std::string> data_;  // by location
  std::map<uint32_t, std::deque<Failure>> failures_;
  std::map<uint32_t, HostState> hosts_;
  std::map<uint32_t, bool> held_;
  std::map<uint32_t, FetchRequest> running_;
  std::vector<FetchRequest> fetches_;
  std::deque<FetchEvent> events_;
};

}  // namespace fastoci

#endif  // FASTOCI_TESTING_FAKE_FETCH_SERVICE_H_
