// SPDX-License-Identifier: Apache-2.0
#include "broker/job_queue.h"

#include <algorithm>

namespace fastoci {

void JobQueue::Enqueue(const JobKey& key, Job* job) {
  job->running = false;
  job->seq = next_seq_++;
  order_.insert(OrderOf(key, *job));
}

void JobQueue::Want(const JobKey& key, uint32_t chunk_no, uint8_t miss_class) {
  auto [it, is_new] = jobs_.try_emplace(key);
  Job& job = it->second;
  uint8_t& wanted = job.wanted[chunk_no];
  wanted = std::max(wanted, miss_class);
  if (is_new) {
    job.miss_class = miss_class;
    Enqueue(key, &job);
  } else if (miss_class > job.miss_class) {
    if (!job.running) order_.erase(OrderOf(key, job));
    job.miss_class = miss_class;
    if (!job.running) order_.insert(OrderOf(key, job));  // keeps its age
  }
}

std::optional<JobQueue::Picked> JobQueue::Pick() {
  if (order_.empty()) return std::nullopt;
  const JobKey key = std::get<2>(*order_.begin());
  order_.erase(order_.begin());
  Job& job = jobs_.at(key);
  job.running = true;
  job.progress = false;
  return Picked{key, job.miss_class, job.attempt};
}

void JobQueue::Resolve(const JobKey& key, uint32_t chunk_no) {
  auto it = jobs_.find(key);
  if (it == jobs_.end()) return;
  if (it->second.wanted.erase(chunk_no)) it->second.progress = true;
  if (it->second.wanted.empty() && !it->second.running) {
    order_.erase(OrderOf(key, it->second));
    jobs_.erase(it);
  }
}

void JobQueue::Finish(const JobKey& key) {
  auto it = jobs_.find(key);
  if (it == jobs_.end() || !it->second.running) return;
  Job& job = it->second;
  if (job.wanted.empty()) {
    jobs_.erase(it);
    return;
  }
  job.attempt = job.progress ? 0 : job.attempt + 1;
  job.miss_class = 0;
  for (const auto& [chunk, miss_class] : job.wanted) job.miss_class = std::max(job.miss_class, miss_class);
  Enqueue(key, &job);
}

std::vector<uint32_t> JobQueue::Drop(const JobKey& key) {
  std::vector<uint32_t> chunks;
  auto it = jobs_.find(key);
  if (it == jobs_.end()) return chunks;
  for (const auto& [chunk, miss_class] : it->second.wanted) chunks.push_back(chunk);
  if (!it->second.running) order_.erase(OrderOf(key, it->second));
  jobs_.erase(it);
  return chunks;
}

std::vector<uint32_t> JobQueue::Wanted(const JobKey& key) const {
  std::vector<uint32_t> chunks;
  if (auto it = jobs_.find(key); it != jobs_.end())
    for (const auto& [chunk, miss_class] : it->second.wanted) chunks.push_back(chunk);
  return chunks;
}

bool JobQueue::IsRunning(const JobKey& key) const {
  auto it = jobs_.find(key);
  return it != jobs_.end() && it->second.running;
}

}  // namespace fastoci
