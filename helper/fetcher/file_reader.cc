// SPDX-License-Identifier: Apache-2.0
#include "fetcher/file_reader.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "base/thread.h"

namespace fastoci {
namespace {

constexpr size_t kPieceBytes = 256 << 10;  // between looks at what is canceled

Error Canceled() { return {ErrorKind::kInternal, ECANCELED, "canceled"}; }

}  // namespace

Result<std::unique_ptr<FileReader>> FileReader::Open() {
  std::unique_ptr<FileReader> reader(new FileReader);
  reader->event_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!reader->event_.valid()) return ErrnoError("eventfd");
  FASTOCI_TRY(reader->thread_, StartThread([r = reader.get()] { r->Run(); }));
  return reader;
}

FileReader::~FileReader() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
    for (auto& [id, canceled] : canceled_) canceled = true;
  }
  wake_.NotifyAll();
  if (thread_.joinable()) thread_.join();
}

uint64_t FileReader::Read(std::string path, uint64_t file_bytes, uint64_t offset,
                          std::span<uint8_t> out, Done done) {
  uint64_t id = next_id_++;
  done_[id] = std::move(done);
  {
    MutexLock lock(mutex_);
    canceled_[id] = false;
    jobs_.push_back({id, std::move(path), file_bytes, offset, out});
  }
  wake_.NotifyOne();
  return id;
}

void FileReader::Cancel(uint64_t id) {
  MutexLock lock(mutex_);
  if (auto it = canceled_.find(id); it != canceled_.end()) it->second = true;
}

void FileReader::Process() {
  eventfd_t ignored;
  (void)eventfd_read(event_.get(), &ignored);
  std::deque<std::pair<uint64_t, Status>> results;
  {
    MutexLock lock(mutex_);
    results.swap(results_);
  }
  for (auto& [id, status] : results) {
    auto node = done_.extract(id);
    node.mapped()(std::move(status));
  }
}

bool FileReader::Canceled(uint64_t id) {
  MutexLock lock(mutex_);
  return canceled_[id];
}

void FileReader::Run() {
  MutexLock lock(mutex_);
  while (true) {
    wake_.Wait(mutex_, [this]() REQUIRES(mutex_) { return stop_ || !jobs_.empty(); });
    if (stop_) return;
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.Unlock();
    Status s = Serve(job);
    lock.Lock();
    canceled_.erase(job.id);
    results_.emplace_back(job.id, std::move(s));
    (void)eventfd_write(event_.get(), 1);
  }
}

Status FileReader::Serve(const Job& job) {
  if (Canceled(job.id)) return fastoci::Canceled();
  // O_NONBLOCK: a FIFO must not hold the thread.
  UniqueFd fd(open(job.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat st {};
  if (!fd.valid() || fstat(fd.get(), &st) != 0) {
    Error e{ErrorKind::kIo, errno, std::strerror(errno)};
    if (e.err == ENOENT) e.kind = ErrorKind::kNotFound;
    if (e.err == EACCES) e.kind = ErrorKind::kDenied;
    return e;
  }
  if (!S_ISREG(st.st_mode)) return InvalidError("not a regular file");
  if (static_cast<uint64_t>(st.st_size) != job.file_bytes)
    return MismatchError("has " + std::to_string(st.st_size) + " bytes, not " +
                         std::to_string(job.file_bytes));
  for (uint64_t done = 0; done < job.out.size();) {
    if (Canceled(job.id)) return fastoci::Canceled();
    auto piece = job.out.subspan(done, std::min(kPieceBytes, job.out.size() - done));
    FASTOCI_CHECK_OK(PreadFull(fd.get(), piece, job.offset + done, "file"));
    done += piece.size();
  }
  return OkStatus();
}

}  // namespace fastoci
