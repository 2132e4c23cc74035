// SPDX-License-Identifier: Apache-2.0
#include "fetcher/fetcher.h"

#include <sys/stat.h>

#include <system_error>

#include "base/packet.h"

namespace fastoci {

Fetcher::~Fetcher() {
  for (LaneThread& l : lanes_) l.lane->Stop();
  for (LaneThread& l : lanes_) l.thread.join();
}

Status Fetcher::Run() {
  while (true) {
    FetchMessage m{};
    std::vector<UniqueFd> fds;
    Status s = ReceivePacket(control_.get(), WritableObjectBytes(&m), -1, &fds);
    if (!s.ok() && s.error().err == EPIPE) return OkStatus();
    if (!s.ok()) return s.error().Wrap("control socket");
    s = Handle(m, std::move(fds));
    FetchMessage reply{};
    if (s.ok()) {
      reply.op = FetchOp::kDone;
      reply.job = m.job;
    } else {
      reply = FailedMessage(m.job, s.error());
    }
    s = SendPacket(control_.get(), ObjectBytes(reply));
    if (!s.ok() && s.error().err != EPIPE) return s.error().Wrap("control socket");
  }
}

Status Fetcher::Handle(const FetchMessage& m, std::vector<UniqueFd> fds) {
  switch (m.op) {
    case FetchOp::kAddLane:
      return AddLane(std::move(fds));
    case FetchOp::kOpenImage:
      return OpenImage(m.image, fds);
    case FetchOp::kCloseImage: {
      std::lock_guard<std::mutex> lock(mutex_);
      images_.erase(m.image);
      return OkStatus();
    }
    default:
      return InvalidError("unknown control message");
  }
}

Status Fetcher::AddLane(std::vector<UniqueFd> fds) {
  if (fds.size() != 2) return InvalidError("AddLane without socket and ring");
  ReapLanes();
  if (lanes_.size() >= kMaxLanes) return InvalidError("too many lanes");
  auto find = [this](uint32_t number) -> std::shared_ptr<const FetchImage> {
    std::lock_guard<std::mutex> lock(mutex_);
    auto it = images_.find(number);
    return it == images_.end() ? nullptr : it->second;
  };
  FASTOCI_TRY(std::unique_ptr<Lane> lane, Lane::Open(std::move(fds[0]), fds[1], registry_, find));
  Lane* runner = lane.get();
  try {
    lanes_.push_back({std::move(lane), std::thread([runner] { runner->Run(); })});
  } catch (const std::system_error& e) {
    return ErrnoError("lane thread", e.code().value());
  }
  return OkStatus();
}

void Fetcher::ReapLanes() {
  for (auto it = lanes_.begin(); it != lanes_.end();) {
    if (!it->lane->ended()) {
      ++it;
      continue;
    }
    it->thread.join();
    it = lanes_.erase(it);
  }
}

Status Fetcher::OpenImage(uint32_t number, const std::vector<UniqueFd>& fds) {
  if (fds.size() != 1) return InvalidError("OpenImage without a memfd");
  struct stat st {};
  if (fstat(fds[0].get(), &st) != 0) return ErrnoError("image JSON");
  if (!S_ISREG(st.st_mode) || static_cast<uint64_t>(st.st_size) > kMaxImageJsonBytes)
    return InvalidError("image JSON: too large");
  std::string json(static_cast<size_t>(st.st_size), '\0');
  FASTOCI_CHECK_OK(PreadFull(
      fds[0].get(), {reinterpret_cast<uint8_t*>(json.data()), json.size()}, 0, "image JSON"));
  FASTOCI_TRY(FetchImage image, ParseFetchImage(json, plain_http_));
  auto shared = std::make_shared<const FetchImage>(std::move(image));
  std::lock_guard<std::mutex> lock(mutex_);
  if (images_.size() >= kMaxImages && images_.count(number) == 0)
    return InvalidError("too many images");
  images_[number] = std::move(shared);
  return OkStatus();
}

}  // namespace fastoci
