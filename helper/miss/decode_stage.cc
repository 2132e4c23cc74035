// SPDX-License-Identifier: Apache-2.0
#include "miss/decode_stage.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <list>
#include <set>

#include "base/event.h"
#include "base/packet.h"

namespace fastoci {
namespace {

using Clock = std::chrono::steady_clock;
constexpr uint64_t kNoSpace = 0;  // a key that no index has
constexpr int kUnwokenPollMs = 20;  // there was no descriptor left for an eventfd

}  // namespace

// One decoder and the job that it has. Of one thread.
class DecodeStage::Driver {
 public:
  explicit Driver(DecodeStage* stage) : stage_(stage) {}
  bool ready() const { return client_ != nullptr; }
  // Starts a decoder and waits until it answers.
  Status Start();
  void Run(const std::shared_ptr<SpanWork>& work);

 private:
  struct InUse {
    uint64_t end;  // of the job's input
    SpanWork::Part part;
  };
  Status Begin(const SpanJob& job, bool reopen);
  Status Pump(const std::shared_ptr<SpanWork>& work, ChunkBuilder* builder);
  Status Feed(SpanWork* work);
  Status Wait(SpanWork* work);
  Status OnMessage(const DecodeMessage& m, SpanWork* work, ChunkBuilder* builder);
  void Reset() {
    client_ = nullptr;
    spaces_.clear();
  }

  DecodeStage* const stage_;
  std::unique_ptr<DecoderClient> client_;
  std::set<uint64_t> spaces_;  // that it was told of, and may have forgotten
  uint32_t job_ = 0;
  std::list<InUse> in_use_;  // inputs that it may still read
  uint64_t fed_ = 0;
  bool all_fed_ = false, stale_ = false;
};

// To see that a decoder runs, sends it a job of a space that it does not know; it must answer.
Status DecodeStage::Driver::Start() {
  spaces_.clear();
  FASTOCI_TRY(auto client,
              DecoderClient::Spawn(stage_->options_.program, stage_->arena_->fd()));
  FASTOCI_CHECK_OK(client->Decode({.job = ++job_, .space = kNoSpace}));
  pollfd fds[2] = {{client->socket_fd(), POLLIN, 0}, {stage_->stop_fd_.get(), POLLIN, 0}};
  (void)::poll(fds, 2, stage_->options_.stall_ms);
  if (stage_->stop_) return Error{ErrorKind::kUnavailable, ECANCELED, "stopping"};
  auto answer = client->Receive(0);
  if (!answer.ok())
    return Error{ErrorKind::kUnavailable, EPIPE,
                 answer.error().err == ETIMEDOUT ? "it does not answer"
                                                 : "it ended: " + answer.error().message};
  client_ = std::move(client);
  return OkStatus();
}

Status DecodeStage::Driver::Begin(const SpanJob& job, bool reopen) {
  const SpanIndex& index = *job.pair.index;
  if (reopen) spaces_.erase(index.key);
  if (!spaces_.count(index.key)) {
    FASTOCI_CHECK_OK(client_->OpenSpace(index.key, index.table.codec, index.table.data_bytes,
                                        index.table.blob_bytes, index.memfd.get()));
    spaces_.insert(index.key);
  }
  fed_ = 0;
  all_fed_ = stale_ = false;
  return client_->Decode({.job = ++job_,
                          .space = index.key,
                          .span_data_offset = job.range.span_data_offset,
                          .blob_offset = job.range.input_begin,
                          .out_begin = job.range.out_begin,
                          .out_end = job.range.out_end,
                          .urgent_begin = job.urgent_begin,
                          .urgent_end = job.urgent_end});
}

void DecodeStage::Driver::Run(const std::shared_ptr<SpanWork>& work) {
  ChunkBuilder builder(work, stage_->dispatcher_, stage_->counters_,
                       [this] { return stage_->stop_.load(); });
  Status status = Begin(work->job(), false);
  if (status.ok()) status = Pump(work, &builder);
  if (!status.ok() && stale_) {  // it has forgotten the space, and decoded nothing
    const uint64_t fed = fed_;
    const bool all_fed = all_fed_;
    status = Begin(work->job(), true);
    fed_ = fed;
    all_fed_ = all_fed;
    for (auto i = in_use_.begin(); status.ok() && i != in_use_.end(); ++i)
      status = client_->Input(i->part.offset, i->part.length, all_fed && i->end == fed);
    if (status.ok()) status = Pump(work, &builder);
  }
  if (!status.ok()) {  // unless that is known already
    work->Fail(Fault::kDecoder,
               {ErrorKind::kUnavailable, EPIPE, "decoder: " + status.error().message});
    // If the decoder still works on this job, its output must not mix with that of another one.
    if (client_->busy() || status.error().err == EPIPE || status.error().err == EPROTO) Reset();
  }
  in_use_.clear();
  builder.Flush();
  work->AddTimes(builder.times());
  work->Drop();
}

// Gives the decoder what came.
Status DecodeStage::Driver::Feed(SpanWork* work) {
  while (!all_fed_ && client_->inputs_open() < kMaxInputs) {
    SpanWork::Input in = work->TakeInput();
    if (in.failed) return Error{ErrorKind::kUnavailable, ECANCELED, "no input"};
    if (!in.part && !in.last) return OkStatus();
    all_fed_ = in.last;
    if (in.part) fed_ += in.part->length;
    FASTOCI_CHECK_OK(client_->Input(in.part ? in.part->offset : 0, in.part ? in.part->length : 0,
                                    in.last));
    if (in.part) in_use_.push_back({fed_, std::move(*in.part)});
  }
  return OkStatus();
}

// Waits for a message of the decoder, or for input.
Status DecodeStage::Driver::Wait(SpanWork* work) {
  const bool wants_input = !all_fed_ && client_->inputs_open() < kMaxInputs;
  const int wake = wants_input ? work->wake_fd() : -1;
  pollfd fds[3] = {{client_->socket_fd(), POLLIN, 0},
                   {stage_->stop_fd_.get(), POLLIN, 0},
                   {wake, POLLIN, 0}};
  // A decoder that waits for input sends nothing, so there is no limit on the wait.
  const int no_limit = wake >= 0 ? -1 : kUnwokenPollMs;
  const int n = ::poll(fds, 3, wants_input ? no_limit : stage_->options_.stall_ms);
  if (n < 0 && errno != EINTR) return ErrnoError("decoder: poll");
  if (fds[1].revents || stage_->stop_) {
    Error error{ErrorKind::kUnavailable, ECANCELED, "stopping"};
    work->Fail(Fault::kStopped, error);
    return error;
  }
  if (n == 0 && !wants_input)
    return Error{ErrorKind::kUnavailable, EPIPE, "it made no progress for too long"};
  return OkStatus();
}

Status DecodeStage::Driver::Pump(const std::shared_ptr<SpanWork>& work, ChunkBuilder* builder) {
  WorkTimes times;
  Status status = OkStatus();
  while (status.ok() && client_->busy()) {
    status = Feed(work.get());
    if (!status.ok()) break;
    const auto before = Clock::now();
    status = Wait(work.get());
    times.decode += Clock::now() - before;
    while (status.ok() && client_->busy()) {
      auto m = client_->Receive(0);
      if (!m.ok()) {
        if (m.error().err != ETIMEDOUT) status = m.error();
        break;
      }
      status = OnMessage(*m, work.get(), builder);
    }
  }
  work->AddTimes(times);
  return status;
}

Status DecodeStage::Driver::OnMessage(const DecodeMessage& m, SpanWork* work,
                                      ChunkBuilder* builder) {
  switch (m.op) {  // the client checked job, order and sizes
    case DecodeOp::kOutput:
      FASTOCI_CHECK_OK(builder->Take(m.data_offset, m.length,
                                     [this](uint64_t at, std::span<uint8_t> out) {
                                       client_->Copy(at, out);
                                     }));
      return client_->busy() ? client_->OutputDone() : OkStatus();
    case DecodeOp::kInputDone:
      while (!in_use_.empty() && in_use_.front().end <= m.total) in_use_.pop_front();
      return OkStatus();
    case DecodeOp::kFailed: {
      Error error{ErrorKind::kInvalid, EBADMSG, "decode: " + FieldText(m.text)};
      stale_ = m.err == ESTALE;
      if (!stale_) work->Fail(Fault::kBytes, error);
      return error;
    }
    default:
      return OkStatus();  // kDone
  }
}

DecodeStage::DecodeStage(DecodeOptions options, std::shared_ptr<Arena> arena,
                         Dispatcher* dispatcher, Counters* counters)
    : options_(std::move(options)),
      arena_(std::move(arena)),
      dispatcher_(dispatcher),
      counters_(counters),
      stop_fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

DecodeStage::~DecodeStage() { Stop(); }

void DecodeStage::Start() {
  for (int i = 0; i < options_.nr_decoders; i++)
    threads_.emplace_back([this]() NO_THREAD_SAFETY_ANALYSIS { Run(&ready_); });  // its address
  for (int i = 0; i < options_.nr_streams; i++)
    threads_.emplace_back([this]() NO_THREAD_SAFETY_ANALYSIS { Run(&streams_); });
}

void DecodeStage::Stop() {
  std::vector<std::shared_ptr<SpanWork>> left;
  {
    MutexLock lock(mutex_);
    stop_ = true;
    for (Queue* q : {&ready_, &streams_}) {
      for (auto& work : q->works) left.push_back(std::move(work));
      q->works.clear();
      q->changed.NotifyAll();
    }
    start_.NotifyAll();
  }
  const uint64_t one = 1;
  (void)!::write(stop_fd_.get(), &one, sizeof(one));
  for (std::thread& t : threads_) t.join();
  threads_.clear();
  for (auto& work : left) {
    work->Fail(Fault::kStopped, {ErrorKind::kUnavailable, ECANCELED, "stopping"});
    work->Drop();
  }
}

void DecodeStage::Put(std::shared_ptr<SpanWork> work) {
  const bool stream = !work->HasAllInput();
  MutexLock lock(mutex_);
  if (stop_) {
    lock.Unlock();
    work->Fail(Fault::kStopped, {ErrorKind::kUnavailable, ECANCELED, "stopping"});
    work->Drop();
    return;
  }
  Queue& queue = stream ? streams_ : ready_;
  // After the works that are as urgent.
  auto at = std::find_if(queue.works.begin(), queue.works.end(), [&](const auto& other) {
    return other->job().urgency < work->job().urgency;
  });
  queue.works.insert(at, std::move(work));
  // See Next(): while a decoder is started, not every thread can use a call.
  if (queue.starting > 0)
    queue.changed.NotifyAll();
  else
    queue.changed.NotifyOne();
}

// A thread without a decoder starts one, unless others do so for all the works that wait.
// Meanwhile a thread that has one may take the work.
std::shared_ptr<SpanWork> DecodeStage::Next(Queue* queue, Driver* driver) {
  MutexLock lock(mutex_);
  for (;;) {
    queue->changed.Wait(mutex_, [&] {
      return stop_ || queue->works.size() > (driver->ready() ? 0 : queue->starting);
    });
    if (stop_) return nullptr;
    if (driver->ready()) {
      auto work = std::move(queue->works.front());
      queue->works.pop_front();
      return work;
    }
    if (Clock::now() < start_at_) {
      queue->changed.NotifyAll();  // one that has a decoder may be idle
      start_.WaitUntil(mutex_, start_at_);
      continue;
    }
    // If the last start failed, other threads wait until this one has ended.
    if (start_pause_ms_ != 0) start_at_ = Clock::now() + std::chrono::milliseconds(start_pause_ms_);
    queue->starting++;
    queue->changed.NotifyAll();  // likewise
    lock.Unlock();
    StartFor(driver);
    lock.Lock();
    queue->starting--;
    if (!driver->ready()) queue->changed.NotifyAll();
  }
}

void DecodeStage::StartFor(Driver* driver) {
  const Status started = driver->Start();
  int pause_ms = 0;
  bool works_again = false;
  {
    MutexLock lock(mutex_);
    if (stop_) return;
    if (!started.ok())
      pause_ms = std::clamp(start_pause_ms_ * 2, kMinStartPauseMs, kMaxStartPauseMs);
    works_again = std::exchange(start_pause_ms_, pause_ms) != 0 && started.ok();
    start_at_ = Clock::now() + std::chrono::milliseconds(pause_ms);
    if (started.ok()) start_.NotifyAll();
  }
  if (works_again)
    LogEvent(LogLevel::kInfo, {.kind = "decoder_works"}, "decoders can be started again");
  if (!started.ok())
    LogEvent(LogLevel::kError, {.kind = "decoder_failed"},
             "no decoder can be started: %s; reads of uncached data wait; the next try is in "
             "%d ms",
             started.error().message.c_str(), pause_ms);
}

void DecodeStage::Run(Queue* queue) {
  Driver driver(this);
  while (auto work = Next(queue, &driver)) driver.Run(work);
}

}  // namespace fastoci
