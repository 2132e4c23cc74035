// SPDX-License-Identifier: Apache-2.0
#include "miss/scheduler.h"

#include <algorithm>

namespace fastoci {
namespace {

constexpr uint32_t kKeptShare = 4;  // one part in so many of a window is kept for readers
constexpr int kMaxTroubled = 64;    // jobs of one space that a Pick() looks at in vain

bool IsUrgent(Urgency urgency) { return urgency >= Urgency::kMaybe; }

}  // namespace

void Scheduler::SetHost(uint32_t host, uint32_t window, bool open) {
  Host& h = hosts_[host];
  h.window = window;
  h.open = open;
}

uint32_t Scheduler::in_flight(uint32_t host) const {
  auto it = hosts_.find(host);
  return it == hosts_.end() ? 0 : it->second.in_flight;
}

bool Scheduler::HasRoom(uint32_t host, Urgency urgency) const {
  auto it = hosts_.find(host);
  if (it == hosts_.end()) return false;
  const Host& h = it->second;
  if (h.window <= 1 || IsUrgent(urgency)) return h.in_flight < h.window;
  return h.in_flight < h.window - std::max(1U, h.window / kKeptShare);
}

bool Scheduler::TakeRequest(uint32_t host, Urgency urgency) {
  if (!HasRoom(host, urgency)) return false;
  hosts_.at(host).in_flight++;
  return true;
}

void Scheduler::RequestEnded(uint32_t host) {
  auto it = hosts_.find(host);
  if (it != hosts_.end() && it->second.in_flight > 0) it->second.in_flight--;
}

void Scheduler::AddSpace(uint32_t space, SpanBytes bytes, uint32_t max_spans) {
  Space& s = spaces_[space];
  s.bytes = std::move(bytes);
  s.max_spans = std::max(max_spans, 1U);
}

void Scheduler::SetSources(uint32_t space, std::vector<Source> sources) {
  if (auto it = spaces_.find(space); it != spaces_.end()) it->second.sources = std::move(sources);
}

std::vector<Scheduler::Wanted> Scheduler::RemoveSpace(uint32_t space) {
  std::vector<Wanted> all;
  for (auto it = jobs_.lower_bound({space, 0}); it != jobs_.end() && it->first.first == space;) {
    const SpanKey key = (it++)->first;
    for (const Wanted& w : Drop(key.first, key.second)) all.push_back(w);
  }
  spaces_.erase(space);
  return all;
}

// ---- jobs ----

void Scheduler::Enqueue(const SpanKey& key, Job* job) {
  job->running = false;
  ClassQueue& queue = classes_[static_cast<size_t>(job->urgency)];
  auto [image, is_new] = queue.images.try_emplace(job->image);
  if (is_new) queue.turns.push_back(job->image);
  image->second.spaces[key.first].insert({job->seq, key.second});
  image->second.nr_jobs++;
  spaces_.at(key.first).nr_queued[static_cast<size_t>(job->urgency)]++;
  nr_queued_++;
}

void Scheduler::Dequeue(const SpanKey& key, const Job& job) {
  ClassQueue& queue = classes_[static_cast<size_t>(job.urgency)];
  auto image = queue.images.find(job.image);
  if (image == queue.images.end()) return;
  auto space = image->second.spaces.find(key.first);
  if (space == image->second.spaces.end() || !space->second.erase({job.seq, key.second})) return;
  nr_queued_--;
  spaces_.at(key.first).nr_queued[static_cast<size_t>(job.urgency)]--;
  if (space->second.empty()) image->second.spaces.erase(space);
  if (--image->second.nr_jobs > 0) return;
  queue.turns.erase(std::find(queue.turns.begin(), queue.turns.end(), job.image));
  queue.images.erase(image);
}

void Scheduler::Want(uint32_t space, uint32_t span, uint32_t chunk_no, Urgency urgency,
                     uint32_t image, int64_t stamp) {
  if (!spaces_.count(space)) return;
  const SpanKey key{space, span};
  auto [it, is_new] = jobs_.try_emplace(key);
  Job& job = it->second;
  Wanted& wanted =
      job.wanted.try_emplace(chunk_no, Wanted{chunk_no, urgency, stamp, 0}).first->second;
  wanted.order = ++last_order_;
  if (!IsRead(wanted.urgency) && IsRead(urgency)) wanted.since = stamp;
  wanted.urgency = std::max(wanted.urgency, urgency);
  if (is_new) {
    job.urgency = urgency;
    job.image = image;
    job.seq = next_seq_++;
    Enqueue(key, &job);
  } else if (urgency > job.urgency) {
    if (!job.running) Dequeue(key, job);
    job.urgency = urgency;
    job.image = image;
    if (!job.running) Enqueue(key, &job);  // keeps its age
  }
}

std::optional<Scheduler::Wanted> Scheduler::Resolve(uint32_t space, uint32_t span,
                                                    uint32_t chunk_no, uint64_t order) {
  auto it = jobs_.find({space, span});
  if (it == jobs_.end()) return std::nullopt;
  std::optional<Wanted> was;
  if (auto w = it->second.wanted.find(chunk_no);
      w != it->second.wanted.end() && w->second.order <= order) {
    was = w->second;
    it->second.wanted.erase(w);
    it->second.progress = true;
  }
  if (it->second.wanted.empty() && !it->second.running) {
    Dequeue(it->first, it->second);
    jobs_.erase(it);
  }
  return was;
}

void Scheduler::QueueAgain(SpanKey key, Job* job) {
  if (job->wanted.empty()) {
    jobs_.erase(key);
    return;
  }
  job->urgency = Urgency::kBackground;
  for (const auto& [chunk, w] : job->wanted) job->urgency = std::max(job->urgency, w.urgency);
  Enqueue(key, job);
}

void Scheduler::Requeue(uint32_t space, uint32_t span) {
  auto it = jobs_.find({space, span});
  if (it != jobs_.end() && it->second.running) QueueAgain(it->first, &it->second);
}

bool Scheduler::WasTried(const Job& job, uint32_t source) {
  return std::find(job.tried.begin(), job.tried.end(), source) != job.tried.end();
}

bool Scheduler::TryOther(uint32_t space, uint32_t span, uint32_t source) {
  auto it = jobs_.find({space, span});
  if (it == jobs_.end() || !it->second.running) return true;
  Job& job = it->second;
  if (!WasTried(job, source)) job.tried.push_back(source);
  auto s = spaces_.find(space);
  const bool left = s != spaces_.end() &&
                    std::any_of(s->second.sources.begin(), s->second.sources.end(),
                                [&](const Source& o) { return !WasTried(job, o.id); });
  if (left || job.wanted.empty()) QueueAgain(it->first, &job);
  return left || !jobs_.count({space, span});
}

bool Scheduler::WasTried(uint32_t space, uint32_t span, uint32_t source) const {
  auto it = jobs_.find({space, span});
  return it != jobs_.end() && WasTried(it->second, source);
}

void Scheduler::ForgetTried(uint32_t space, uint32_t span) {
  if (auto it = jobs_.find({space, span}); it != jobs_.end()) it->second.tried.clear();
}

std::vector<Scheduler::Wanted> Scheduler::Finish(uint32_t space, uint32_t span,
                                                 uint32_t max_fruitless) {
  auto it = jobs_.find({space, span});
  if (it == jobs_.end() || !it->second.running) return {};
  Job& job = it->second;
  job.tried.clear();
  job.fruitless = job.progress ? 0 : job.fruitless + 1;
  if (job.wanted.empty() || job.fruitless >= max_fruitless) return Drop(space, span);
  job.seq = next_seq_++;
  QueueAgain(it->first, &job);
  return {};
}

std::vector<Scheduler::Wanted> Scheduler::Drop(uint32_t space, uint32_t span) {
  std::vector<Wanted> chunks = WantedOf(space, span);
  auto it = jobs_.find({space, span});
  if (it == jobs_.end()) return chunks;
  if (!it->second.running) Dequeue(it->first, it->second);
  jobs_.erase(it);
  return chunks;
}

std::vector<Scheduler::Wanted> Scheduler::DropQueued(uint32_t space) {
  std::vector<Wanted> all;
  for (auto it = jobs_.lower_bound({space, 0}); it != jobs_.end() && it->first.first == space;) {
    const SpanKey key = it->first;
    const bool running = (it++)->second.running;
    if (running) continue;
    for (const Wanted& w : Drop(key.first, key.second)) all.push_back(w);
  }
  return all;
}

// ---- picking ----

std::optional<Scheduler::Source> Scheduler::SourceFor(const Space& space, const Job& job,
                                                      const Room& room, uint64_t bytes) const {
  for (const Source& s : space.sources) {
    if (WasTried(job, s.id) || !HasRoom(s.host, job.urgency)) continue;
    const uint64_t held = room.HeldBy(s.host);
    if (held == 0 || held + bytes <= room.urgent_bytes) return s;
  }
  return std::nullopt;
}

// The oldest job of an image's queue that can begin now.
std::optional<Scheduler::Candidate> Scheduler::OldestOf(uint32_t image, ImageQueue* queue,
                                                        const Room& room, Urgency urgency) {
  const uint64_t bytes = IsUrgent(urgency) ? room.urgent_bytes : room.other_bytes;
  std::optional<Candidate> best;
  for (const auto& [space_no, jobs] : queue->spaces) {
    const Space& space = spaces_.at(space_no);
    int troubled = 0;
    for (const auto& [seq, span] : jobs) {
      if (best && seq > best->seq) break;
      steps_++;
      const Job& job = jobs_.at({space_no, span});
      const uint64_t wanted = std::min(space.bytes(span), limits_.range_bytes);
      if (wanted > bytes) break;
      if (auto source = SourceFor(space, job, room, wanted)) {
        best = Candidate{image, space_no, span, seq, *source};
        break;
      }
      // If no host has room for a job that was not tried yet, none has room for the later ones.
      if (job.tried.empty() || ++troubled == kMaxTroubled) break;
    }
  }
  return best;
}

// Returns the candidate of the first image, in turn, that has something left of its share. If no
// image has, all images that could begin get as many quanta as one of them needs at least.
std::optional<Scheduler::Candidate> Scheduler::NextOf(ClassQueue* queue, const Room& room,
                                                      Urgency urgency) {
  std::vector<std::pair<ImageQueue*, Candidate>> ready;
  for (uint32_t image : queue->turns) {
    ImageQueue& q = queue->images.at(image);
    auto candidate = OldestOf(image, &q, room, urgency);
    if (!candidate) continue;
    if (q.deficit > 0) return candidate;
    ready.emplace_back(&q, *candidate);
  }
  if (ready.empty()) return std::nullopt;
  const auto quantum = static_cast<int64_t>(limits_.quantum_bytes);
  int64_t rounds = INT64_MAX;
  for (const auto& [q, c] : ready) rounds = std::min(rounds, -q->deficit / quantum + 1);
  for (const auto& [q, c] : ready) q->deficit += rounds * quantum;
  for (const auto& [q, c] : ready)
    if (q->deficit > 0) return c;
  return std::nullopt;
}

Scheduler::Range Scheduler::Take(const Candidate& c, const Room& room, Urgency urgency) {
  const Space& space = spaces_.at(c.space);
  Range range{.space = c.space, .first = c.span, .image = c.image, .source = c.source};
  auto it = jobs_.find({c.space, c.span});
  range.urgency = it->second.urgency;
  // A range for a reader does not include spans that only a download wants.
  const Urgency least = std::min(range.urgency, Urgency::kReadahead);
  const uint64_t bytes_left = IsUrgent(urgency) ? room.urgent_bytes : room.other_bytes;
  const uint64_t held = room.HeldBy(c.source.host);
  const uint64_t most = std::min(
      {limits_.range_bytes, bytes_left, room.urgent_bytes - std::min(room.urgent_bytes, held)});
  for (; it != jobs_.end() && range.nr_spans < space.max_spans; ++it) {
    Job& job = it->second;
    if (it->first != SpanKey{c.space, c.span + range.nr_spans}) break;
    const uint64_t bytes = space.bytes(it->first.second);
    if (range.nr_spans > 0 && (job.running || job.urgency < least || !job.tried.empty() ||
                               range.bytes + bytes > most))
      break;
    Dequeue(it->first, job);
    job.running = true;
    job.progress = false;
    range.bytes += bytes;
    range.nr_spans++;
  }
  return range;
}

std::optional<Scheduler::Range> Scheduler::Pick(const Room& room) {
  for (size_t i = kNrUrgencies; i-- > 0;) {
    const auto urgency = static_cast<Urgency>(i);
    ClassQueue& queue = classes_[i];
    auto candidate = NextOf(&queue, room, urgency);
    if (!candidate) continue;
    Range range = Take(*candidate, room, urgency);
    hosts_.at(range.source.host).in_flight++;
    auto image = queue.images.find(range.image);
    if (image == queue.images.end()) return range;  // that was its last job
    image->second.deficit -= static_cast<int64_t>(range.bytes);
    if (image->second.deficit > 0) return range;
    auto turn = std::find(queue.turns.begin(), queue.turns.end(), range.image);
    queue.turns.erase(turn);
    queue.turns.push_back(range.image);
    return range;
  }
  return std::nullopt;
}

// ---- looks ----

bool Scheduler::HasJobs(uint32_t space) const {
  auto it = jobs_.lower_bound({space, 0});
  return it != jobs_.end() && it->first.first == space;
}

bool Scheduler::IsRunning(uint32_t space, uint32_t span) const {
  auto it = jobs_.find({space, span});
  return it != jobs_.end() && it->second.running;
}

std::vector<Scheduler::Wanted> Scheduler::WantedOf(uint32_t space, uint32_t span) const {
  std::vector<Wanted> chunks;
  if (auto it = jobs_.find({space, span}); it != jobs_.end())
    for (const auto& [chunk, w] : it->second.wanted) chunks.push_back(w);
  return chunks;
}

bool Scheduler::CanGoOn(const Space& space) const {
  return std::any_of(space.sources.begin(), space.sources.end(), [&](const Source& s) {
    auto host = hosts_.find(s.host);
    return host != hosts_.end() && host->second.open && host->second.window > 0;
  });
}

bool Scheduler::CanGoOn(uint32_t space) const {
  auto it = spaces_.find(space);
  return it != spaces_.end() && CanGoOn(it->second);
}

bool Scheduler::HasQueued(Urgency at_least) const {
  return std::any_of(spaces_.begin(), spaces_.end(), [&](const auto& s) {
    const auto& nr_queued = s.second.nr_queued;
    return std::any_of(nr_queued.begin() + static_cast<ptrdiff_t>(at_least), nr_queued.end(),
                       [](size_t n) { return n > 0; }) &&
           CanGoOn(s.second);
  });
}

size_t Scheduler::nr_queued_of(uint32_t image, Urgency urgency) const {
  const ClassQueue& queue = classes_[static_cast<size_t>(urgency)];
  auto it = queue.images.find(image);
  if (it == queue.images.end()) return 0;
  size_t n = 0;
  for (const auto& [space, jobs] : it->second.spaces)
    if (CanGoOn(space)) n += jobs.size();
  return n;
}

std::optional<Urgency> Scheduler::UrgencyOf(uint32_t space, uint32_t span,
                                            uint32_t chunk_no) const {
  auto it = jobs_.find({space, span});
  if (it == jobs_.end()) return std::nullopt;
  auto w = it->second.wanted.find(chunk_no);
  return w == it->second.wanted.end() ? std::nullopt : std::optional(w->second.urgency);
}

std::map<uint32_t, Scheduler::Waiting> Scheduler::WaitingBySpace() const {
  std::map<uint32_t, Waiting> out;
  for (const auto& [key, job] : jobs_) {
    for (const auto& [chunk, w] : job.wanted) {
      if (!IsRead(w.urgency)) continue;
      Waiting& waiting = out[key.first];
      waiting.oldest = waiting.chunks++ ? std::min(waiting.oldest, w.since) : w.since;
    }
  }
  return out;
}

}  // namespace fastoci
