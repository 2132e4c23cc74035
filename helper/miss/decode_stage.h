// SPDX-License-Identifier: Apache-2.0
// DecodeStage: a pool of decoder processes, each with a thread of ours that feeds it, takes what
// it gives and verifies it. Any decoder takes any job whose input is there, the most urgent first.
//
// A job whose input is larger than one request is begun when the first part of it is there. Such
// jobs have threads and decoders of their own, so that one whose source became slow holds up only
// others of that kind.
//
// A decoder that says nothing for stall_ms is replaced. A thread takes a job only when its decoder
// has answered. While no decoder can be started, jobs stay queued with their input, and nothing is
// fetched for them again. The memory that they hold limits what else is fetched. A start that fails
// is tried again after a pause, which doubles from kMinStartPauseMs to kMaxStartPauseMs. The events
// decoder_failed and decoder_works report it.
#ifndef FASTOCI_MISS_DECODE_STAGE_H_
#define FASTOCI_MISS_DECODE_STAGE_H_

#include <atomic>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "decoder/client.h"
#include "miss/chunk_builder.h"

namespace fastoci {

struct DecodeOptions {
  Program program = "fastoci-decoderd";
  int nr_decoders = 2;
  int nr_streams = 2;
  int stall_ms = 10000;
};

class DecodeStage {
 public:
  static constexpr int kMinStartPauseMs = 250, kMaxStartPauseMs = 30000;

  DecodeStage(DecodeOptions options, std::shared_ptr<Arena> arena, Dispatcher* dispatcher,
              Counters* counters);
  ~DecodeStage();  // Stop()
  void Start();
  // Ends running jobs and drops those that wait.
  void Stop() EXCLUDES(mutex_);
  // Takes over the caller's reference (SpanWork::Drop()). Any thread.
  void Put(std::shared_ptr<SpanWork> work) EXCLUDES(mutex_);

 private:
  class Driver;
  struct Queue {
    std::deque<std::shared_ptr<SpanWork>> works;
    size_t starting = 0;  // threads that start a decoder, each for one of the works
    CondVar changed;
  };
  void Run(Queue* queue);
  // The next job, for a driver that has a decoder then; null: stop.
  std::shared_ptr<SpanWork> Next(Queue* queue, Driver* driver) EXCLUDES(mutex_);
  void StartFor(Driver* driver) EXCLUDES(mutex_);

  const DecodeOptions options_;
  const std::shared_ptr<Arena> arena_;
  Dispatcher* const dispatcher_;
  Counters* const counters_;
  UniqueFd stop_fd_;
  std::atomic<bool> stop_{false};
  Mutex mutex_;
  Queue ready_ GUARDED_BY(mutex_), streams_ GUARDED_BY(mutex_);
  CondVar start_;  // stop_, or a decoder could be started
  int start_pause_ms_ GUARDED_BY(mutex_) = 0;  // 0: the last start did not fail
  std::chrono::steady_clock::time_point start_at_ GUARDED_BY(mutex_);  // not before
  std::vector<std::thread> threads_;
};

}  // namespace fastoci

#endif  // FASTOCI_MISS_DECODE_STAGE_H_
