// SPDX-License-Identifier: Apache-2.0
#include "broker/job_queue.h"

#include <algorithm>

namespace fastoci {

void JobQueue::Enqueue(const JobKey& key, Job* job) {
  job->running = false;
  job->seq = next_seq_++;
  order_.insert(OrderOf(key, *job));
}

void JobQueue::Want(const JobKey& key, uint32_t chunk_no, Urgency urgency, int64_t stamp) {
  auto [it, is_new] = jobs_.try_emplace(key);
  Job& job = it->second;
  Wanted& wanted = job.wanted.try_emplace(chunk_no, Wanted{chunk_no, urgency, stamp}).first->second;
  if (wanted.urgency < Urgency::kAhead && urgency >= Urgency::kAhead) wanted.since = stamp;
  wanted.urgency = std::max(wanted.urgency, urgency);
  if (is_new) {
    job.urgency = urgency;
    Enqueue(key, &job);
  } else if (urgency > job.urgency) {
    if (!job.running) order_.erase(OrderOf(key, job));
    job.urgency = urgency;
    if (!job.running) order_.insert(OrderOf(key, job));  // keeps its age
  }
}

bool JobQueue::HasWork(Urgency at_least) const {
  return !order_.empty() && -std::get<0>(*order_.begin()) >= static_cast<int>(at_least);
}

void JobQueue::SetRunning(const JobKey& key, Job* job) {
  order_.erase(OrderOf(key, *job));
  job->running = true;
  job->progress = false;
}

std::optional<JobQueue::Run> JobQueue::Pick(Urgency at_least, uint32_t max_spans) {
  if (!HasWork(at_least)) return std::nullopt;
  Run run;
  run.first = std::get<2>(*order_.begin());
  auto it = jobs_.find(run.first);
  run.urgency = it->second.urgency;
  SetRunning(run.first, &it->second);
  for (; run.nr_spans < max_spans; run.nr_spans++) {
    ++it;
    if (it == jobs_.end() || it->first != run.Key(run.nr_spans) || it->second.running) break;
    SetRunning(it->first, &it->second);
  }
  return run;
}

std::optional<JobQueue::Wanted> JobQueue::Resolve(const JobKey& key, uint32_t chunk_no) {
  auto it = jobs_.find(key);
  if (it == jobs_.end()) return std::nullopt;
  std::optional<Wanted> was;
  if (auto w = it->second.wanted.find(chunk_no); w != it->second.wanted.end()) {
    was = w->second;
    it->second.wanted.erase(w);
    it->second.progress = true;
  }
  if (it->second.wanted.empty() && !it->second.running) {
    order_.erase(OrderOf(key, it->second));
    jobs_.erase(it);
  }
  return was;
}

std::vector<JobQueue::Wanted> JobQueue::Finish(const JobKey& key, uint32_t max_attempts,
                                               bool tried) {
  auto it = jobs_.find(key);
  if (it == jobs_.end() || !it->second.running) return {};
  Job& job = it->second;
  if (tried) job.attempt = job.progress ? 0 : job.attempt + 1;
  if (job.wanted.empty() || job.attempt >= max_attempts) return Drop(key);
  job.urgency = Urgency::kBackground;
  for (const auto& [chunk, w] : job.wanted) job.urgency = std::max(job.urgency, w.urgency);
  Enqueue(key, &job);
  return {};
}

std::vector<JobQueue::Wanted> JobQueue::Drop(const JobKey& key) {
  std::vector<Wanted> chunks = WantedOf(key);
  auto it = jobs_.find(key);
  if (it == jobs_.end()) return chunks;
  if (!it->second.running) order_.erase(OrderOf(key, it->second));
  jobs_.erase(it);
  return chunks;
}

std::vector<JobQueue::Wanted> JobQueue::WantedOf(const JobKey& key) const {
  std::vector<Wanted> chunks;
  if (auto it = jobs_.find(key); it != jobs_.end())
    for (const auto& [chunk, w] : it->second.wanted) chunks.push_back(w);
  return chunks;
}

std::map<std::pair<uint32_t, uint32_t>, JobQueue::Waiting> JobQueue::WaitingBySpace() const {
  std::map<std::pair<uint32_t, uint32_t>, Waiting> out;
  for (const auto& [key, job] : jobs_) {
    for (const auto& [chunk, w] : job.wanted) {
      if (w.urgency < Urgency::kAhead) continue;
      Waiting& waiting = out[{key.cache, key.space}];
      waiting.oldest = waiting.chunks++ ? std::min(waiting.oldest, w.since) : w.since;
    }
  }
  return out;
}

bool JobQueue::IsRunning(const JobKey& key) const {
  auto it = jobs_.find(key);
  return it != jobs_.end() && it->second.running;
}

}  // namespace fastoci
