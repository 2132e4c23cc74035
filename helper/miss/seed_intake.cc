// SPDX-License-Identifier: Apache-2.0
#include "miss/seed_intake.h"

#include <algorithm>
#include <cstring>

#include "base/packet.h"
#include "miss/chunk_builder.h"

namespace fastoci {
namespace {

constexpr int kPollMs = 200;  // until Stop() is seen
// A new image is read and opened at the fetcher first; a busy node may take long for that.
constexpr auto kKnownWithin = std::chrono::seconds(120);
constexpr auto kLookAgain = std::chrono::milliseconds(50);

// How the work on one Fill ended; WaitForEnd() is called once.
class Outcome {
 public:
  void Set(const SpanWork::End& end) {
    MutexLock lock(mutex_);
    end_ = end;
    changed_.NotifyAll();
  }
  SpanWork::End WaitForEnd() {
    MutexLock lock(mutex_);
    changed_.Wait(mutex_, [this] {
      mutex_.AssertHeld();
      return end_.has_value();
    });
    return *end_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::optional<SpanWork::End> end_ GUARDED_BY(mutex_);
};

SeedReply ReplyOf(const Status& status) {
  SeedReply reply = {};
  if (status.ok()) return reply;
  const Error& e = status.error();
  reply.kind = 1 + static_cast<uint32_t>(e.kind);
  reply.err = e.err;
  e.message.copy(reply.text, sizeof(reply.text) - 1);
  return reply;
}

// That a Fill is whole chunks of the space, and within the memory.
Status CheckPlace(const SpaceView& view, const SeedRequest& r) {
  const uint64_t chunk = view.cache->chunk_bytes(), data = view.blob->data_bytes;
  if (r.bytes == 0 || r.bytes > kSeedBatchBytes || r.memory_offset > kSeedMemoryBytes - r.bytes)
    return InvalidError("a seed's data is not in the memory");
  if (r.data_offset >= data || r.bytes > data - r.data_offset || r.data_offset % chunk != 0 ||
      (r.bytes % chunk != 0 && r.data_offset + r.bytes != data))
    return InvalidError("a seed's data (" + std::to_string(r.data_offset) + "+" +
                        std::to_string(r.bytes) + ") is not whole chunks of its data space");
  return OkStatus();
}

}  // namespace

SeedIntake::SeedIntake(Catalog* catalog, Dispatcher* dispatcher, Counters* counters)
    : catalog_(catalog), dispatcher_(dispatcher), counters_(counters) {}

SeedIntake::~SeedIntake() { Stop(); }

void SeedIntake::Stop() {
  std::list<Client> clients;
  {
    MutexLock lock(mutex_);
    stop_ = true;
    clients.swap(clients_);
  }
  for (Client& client : clients) client.thread.join();
}

Status SeedIntake::Begin(const Sha256Digest& image_id, UniqueFd socket, UniqueFd memory) {
  MutexLock lock(mutex_);
  for (auto it = clients_.begin(); it != clients_.end();) {
    if (!it->done) {
      ++it;
      continue;
    }
    it->thread.join();
    it = clients_.erase(it);
  }
  if (stop_) return Error{ErrorKind::kUnavailable, ECANCELED, "the helper ends"};
  if (clients_.size() >= kMaxClients)
    return Error{ErrorKind::kUnavailable, EBUSY,
                 std::to_string(kMaxClients) + " seeds are being imported already"};
  Client& client = clients_.emplace_back();
  client.image_id = image_id;
  client.socket = std::move(socket);
  client.memory = std::move(memory);
  client.thread = std::thread([this, &client] { Serve(&client); });
  return OkStatus();
}

void SeedIntake::Serve(Client* client) {
  while (!stop_) {
    SeedRequest request;
    Status received = ReceivePacket(client->socket.get(), WritableObjectBytes(&request), kPollMs);
    if (!received.ok() && received.error().err == ETIMEDOUT) continue;
    if (!received.ok()) break;
    const SeedReply reply = ReplyOf(Handle(*client, request));
    // At most kSeedBatches replies are under way, so the socket has room.
    if (!SendPacket(client->socket.get(), ObjectBytes(reply), {}, true).ok()) break;
  }
  client->socket.reset();
  client->memory.reset();
  client->done = true;
}

Status SeedIntake::Handle(const Client& client, const SeedRequest& request) {
  switch (request.op) {
    case SeedOp::kFill: return Fill(client, request);
    case SeedOp::kEnd: return End(client.image_id);
  }
  return InvalidError("no request of a seed");
}

std::shared_ptr<const SpaceView> SeedIntake::ViewOf(const Sha256Digest& image_id,
                                                    const Sha256Digest& space_id) {
  const auto deadline = std::chrono::steady_clock::now() + kKnownWithin;
  for (;;) {
    for (const Catalog::Image& image : catalog_->Images()) {
      if (image.info.image_id != image_id) continue;
      for (const SpaceInfo& space : catalog_->SpacesOf(image))
        if (space.id == space_id)
          if (auto view = dispatcher_->ViewOf(space.cache, space.space)) return view;
    }
    if (stop_ || std::chrono::steady_clock::now() > deadline) return nullptr;
    std::this_thread::sleep_for(kLookAgain);
  }
}

Status SeedIntake::Fill(const Client& client, const SeedRequest& r) {
  Sha256Digest space_id;
  std::copy_n(r.space_id, space_id.size(), space_id.begin());
  const auto view = ViewOf(client.image_id, space_id);
  if (!view) return NotFoundError("no attached image has the data space " + DigestString(space_id));
  if (view->blob->digests.empty())
    return Error{ErrorKind::kUnsupported, EOPNOTSUPP,
                 "the layer " + DigestString(view->blob->blob_digest) +
                     " has no chunk digests to compare a seed with"};
  FASTOCI_CHECK_OK(CheckPlace(*view, r));
  FASTOCI_CHECK_OK(view->cache->Writable());
  SpanJob job;
  job.view = view;
  job.space = dispatcher_->NumberOf(view->info.cache, view->info.space);
  job.image = view->image;
  job.range.out_begin = r.data_offset;
  job.range.out_end = r.data_offset + r.bytes;
  Outcome outcome;
  auto work = std::make_shared<SpanWork>(
      std::move(job), [&outcome](const SpanJob&, const SpanWork::End& end) { outcome.Set(end); });
  {
    ChunkBuilder builder(work, dispatcher_, counters_, [this] { return stop_.load(); });
    // The client may change its memory meanwhile, or make it shorter. What was not read is zeros,
    // and the digests tell.
    (void)builder.Take(r.data_offset, r.bytes, [&](uint64_t at, std::span<uint8_t> out) {
      if (!PreadFull(client.memory.get(), out, r.memory_offset + (at - r.data_offset), "seed").ok())
        std::fill(out.begin(), out.end(), 0);
    }).ok();
    builder.Flush();
  }
  work->Drop();
  const SpanWork::End end = outcome.WaitForEnd();
  if (end.fault == Fault::kNone) return OkStatus();
  if (end.fault == Fault::kBytes) {
    counters_->mismatches++;
    return end.error.Wrap("the layer " + DigestString(view->blob->blob_digest));
  }
  return end.error;
}

Status SeedIntake::End(const Sha256Digest& image_id) {
  for (const Catalog::Image& image : catalog_->Images()) {
    if (image.info.image_id != image_id) continue;
    auto cache = catalog_->CacheOf(image.info.cache);
    if (!cache) continue;
    cache->Commit();
    const Cache::Stat stat = cache->GetStat();
    if (cache->db() != nullptr && stat.trouble.empty()) return OkStatus();
    return Error{ErrorKind::kIo, EIO,
                 "the data is in the cache, but need not outlive a restart: " +
                     (stat.trouble.empty() ? "there is no database" : stat.trouble)};
  }
  return NotFoundError("the image is not attached any more");
}

}  // namespace fastoci
