// SPDX-License-Identifier: Apache-2.0
#include "containerd/client.h"

#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <chrono>
#include <ctime>
#include <thread>

#include "base/format.h"
#include "containerd/content.grpc.pb.h"
#include "containerd/diff.grpc.pb.h"
#include "containerd/images.grpc.pb.h"
#include "containerd/leases.grpc.pb.h"
#include "containerd/snapshots.grpc.pb.h"

namespace fastoci {
namespace {

namespace content_api = containerd::services::content::v1;
namespace diff_api = containerd::services::diff::v1;
namespace images_api = containerd::services::images::v1;
namespace leases_api = containerd::services::leases::v1;
namespace snapshots_api = containerd::services::snapshots::v1;

constexpr int kMaxMessage = 16 << 20;
constexpr size_t kChunk = 1 << 20;
constexpr auto kCall = std::chrono::seconds(60);
constexpr auto kLongCall = std::chrono::minutes(30);
constexpr auto kLockedPause = std::chrono::milliseconds(200);

Error FromStatus(const grpc::Status& status, const std::string& what) {
  Error error = {ErrorKind::kIo, EIO, what + ": " + status.error_message()};
  switch (status.error_code()) {
    case grpc::NOT_FOUND: error.kind = ErrorKind::kNotFound, error.err = ENOENT; break;
    case grpc::ALREADY_EXISTS: error.err = EEXIST; break;
    case grpc::INVALID_ARGUMENT: error.kind = ErrorKind::kInvalid, error.err = EINVAL; break;
    case grpc::PERMISSION_DENIED: error.kind = ErrorKind::kDenied, error.err = EACCES; break;
    case grpc::UNAVAILABLE:
    case grpc::DEADLINE_EXCEEDED: error.kind = ErrorKind::kUnavailable, error.err = ETIMEDOUT; break;
    default: break;
  }
  return error;
}

Status Done(const grpc::Status& status, const std::string& what) {
  return status.ok() ? OkStatus() : Status(FromStatus(status, what));
}

template <typename Map>
void Put(const LabelMap& labels, Map* out) {
  for (const auto& [key, value] : labels) (*out)[key] = value;
}

void PutDescriptor(const ContentDescriptor& d, containerd::types::Descriptor* out) {
  out->set_media_type(d.media_type);
  out->set_digest(d.digest);
  out->set_size(static_cast<int64_t>(d.bytes));
  Put(d.annotations, out->mutable_annotations());
}

template <typename Reply>
std::vector<ContainerdMount> MountsOf(const Reply& reply) {
  std::vector<ContainerdMount> out;
  for (const auto& m : reply.mounts())
    out.push_back({m.type(), m.source(), m.target(), {m.options().begin(), m.options().end()}});
  return out;
}

std::string UniqueName(const char* what) {
  const auto now = std::chrono::system_clock::now().time_since_epoch().count();
  return std::string(what) + "-" + std::to_string(now) + "-" + std::to_string(::getpid());
}

}  // namespace

struct ContainerdClient::Impl {
  std::string name_space, lease;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<content_api::Content::Stub> content;
  std::unique_ptr<diff_api::Diff::Stub> diff;
  std::unique_ptr<images_api::Images::Stub> images;
  std::unique_ptr<leases_api::Leases::Stub> leases;
  std::unique_ptr<snapshots_api::Snapshots::Stub> snapshots;

  // For one call.
  std::unique_ptr<grpc::ClientContext> Context(std::chrono::seconds limit = kCall) const {
    auto context = std::make_unique<grpc::ClientContext>();
    context->AddMetadata("containerd-namespace", name_space);
    if (!lease.empty()) context->AddMetadata("containerd-lease", lease);
    context->set_deadline(std::chrono::system_clock::now() + limit);
    return context;
  }
};

ContainerdClient::ContainerdClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

ContainerdClient::~ContainerdClient() {
  if (impl_->lease.empty()) return;
  leases_api::DeleteRequest request;
  google::protobuf::Empty reply;
  request.set_id(impl_->lease);
  (void)impl_->leases->Delete(impl_->Context().get(), request, &reply);
}

Result<std::unique_ptr<ContainerdClient>> ContainerdClient::Connect(const std::string& socket_path,
                                                                    const std::string& name_space,
                                                                    int64_t timeout_ms) {
  if (socket_path.empty() || socket_path[0] != '/') return InvalidError("containerd's socket needs an absolute path");
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessage);
  // Some versions of gRPC send the socket's path, escaped, which strict servers refuse.
  arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, "localhost");
  auto impl = std::make_unique<Impl>();
  impl->name_space = name_space;
  impl->channel = grpc::CreateCustomChannel("unix:" + socket_path, grpc::InsecureChannelCredentials(), arguments);
  if (!impl->channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::milliseconds(timeout_ms)))
    return Error{ErrorKind::kUnavailable, ENOTCONN,
                 "containerd does not answer at " + socket_path + "; is it running? Name its socket with --address"};
  impl->content = content_api::Content::NewStub(impl->channel);
  impl->diff = diff_api::Diff::NewStub(impl->channel);
  impl->images = images_api::Images::NewStub(impl->channel);
  impl->leases = leases_api::Leases::NewStub(impl->channel);
  impl->snapshots = snapshots_api::Snapshots::NewStub(impl->channel);
  return std::unique_ptr<ContainerdClient>(new ContainerdClient(std::move(impl)));
}

Status ContainerdClient::Lease(int64_t expires_s) {
  leases_api::CreateRequest request;
  leases_api::CreateResponse reply;
  request.set_id(UniqueName("fastoci"));
  (*request.mutable_labels())["containerd.io/gc.expire"] = UtcTime(std::time(nullptr) + expires_s);
  FASTOCI_CHECK_OK(Done(impl_->leases->Create(impl_->Context().get(), request, &reply), "make a lease"));
  impl_->lease = reply.lease().id();
  return OkStatus();
}

Result<LabelMap> ContainerdClient::ContentLabels(const std::string& digest) {
  content_api::InfoRequest request;
  content_api::InfoResponse reply;
  request.set_digest(digest);
  FASTOCI_CHECK_OK(Done(impl_->content->Info(impl_->Context().get(), request, &reply), "content " + digest));
  return LabelMap(reply.info().labels().begin(), reply.info().labels().end());
}

Status ContainerdClient::SetContentLabels(const std::string& digest, const LabelMap& labels) {
  content_api::UpdateRequest request;
  content_api::UpdateResponse reply;
  request.mutable_info()->set_digest(digest);
  Put(labels, request.mutable_info()->mutable_labels());
  for (const auto& [key, value] : labels) request.mutable_update_mask()->add_paths("labels." + key);
  return Done(impl_->content->Update(impl_->Context().get(), request, &reply), "label content " + digest);
}

Status ContainerdClient::WriteContent(const ContentDescriptor& c, const LabelMap& labels,
                                      const std::function<Status(const Sink&)>& produce) {
  const auto end = std::chrono::steady_clock::now() + kLongCall;
  for (;;) {
    if (ContentLabels(c.digest).ok()) return SetContentLabels(c.digest, labels);
    Status status = WriteOnce(c, labels, produce);
    if (status.ok() || status.error().err != EALREADY || std::chrono::steady_clock::now() > end) return status;
    std::this_thread::sleep_for(kLockedPause);
  }
}

Status ContainerdClient::WriteOnce(const ContentDescriptor& c, const LabelMap& labels,
                                   const std::function<Status(const Sink&)>& produce) {
  auto context = impl_->Context(kLongCall);
  auto stream = impl_->content->Write(context.get());
  content_api::WriteContentRequest request;
  content_api::WriteContentResponse reply;
  request.set_ref("fastoci-" + c.digest);
  request.set_total(static_cast<int64_t>(c.bytes));
  request.set_expected(c.digest);
  // The error, if the stream ended; or success, if the content is there nevertheless.
  auto ended = [&]() -> Status {
    const grpc::Status status = stream->Finish();
    if (status.error_code() == grpc::ALREADY_EXISTS) return SetContentLabels(c.digest, labels);
    if (status.error_code() == grpc::UNAVAILABLE && status.error_message().find(" locked ") != std::string::npos)
      return Error{ErrorKind::kUnavailable, EALREADY, "write content " + c.digest + ": " + status.error_message()};
    return Done(status.ok() ? grpc::Status(grpc::UNAVAILABLE, "the stream ended") : status, "write content " + c.digest);
  };
  auto exchange = [&] { return stream->Write(request) && stream->Read(&reply); };
  if (!exchange()) return ended();  // action STAT: opens it
  // A write that was broken off may have left data. Begin again at offset 0.
  int64_t offset = 0;
  bool broken = false;
  Status produced = produce([&](ByteSpan data) {
    for (size_t at = 0; at < data.size(); at += kChunk) {
      const ByteSpan part = data.subspan(at, std::min(kChunk, data.size() - at));
      request.set_action(content_api::WRITE);
      request.set_offset(offset);
      request.set_data(part.data(), part.size());
      broken = !exchange();
      if (broken) return Status(Error{ErrorKind::kUnavailable, EPIPE, "containerd broke off"});
      offset += static_cast<int64_t>(part.size());
    }
    return OkStatus();
  });
  if (broken) return ended();
  if (!produced.ok()) {
    context->TryCancel();
    (void)stream->Finish();
    return produced;
  }
  request.clear_data();
  request.set_action(content_api::COMMIT);
  request.set_offset(offset);
  request.set_total(offset);
  Put(labels, request.mutable_labels());
  if (!exchange()) return ended();
  stream->WritesDone();
  while (stream->Read(&reply)) {
  }
  return Done(stream->Finish(), "write content " + c.digest);
}

Result<bool> ContainerdClient::HasSnapshot(const std::string& snapshotter, const std::string& key) {
  snapshots_api::StatSnapshotRequest request;
  snapshots_api::StatSnapshotResponse reply;
  request.set_snapshotter(snapshotter);
  request.set_key(key);
  const grpc::Status status = impl_->snapshots->Stat(impl_->Context().get(), request, &reply);
  if (status.error_code() == grpc::NOT_FOUND) return false;
  FASTOCI_CHECK_OK(Done(status, "snapshot " + key));
  return true;
}

Result<std::vector<ContainerdMount>> ContainerdClient::PrepareSnapshot(const std::string& snapshotter,
                                                                       const std::string& key,
                                                                       const std::string& parent,
                                                                       const LabelMap& labels) {
  snapshots_api::PrepareSnapshotRequest request;
  snapshots_api::PrepareSnapshotResponse reply;
  request.set_snapshotter(snapshotter);
  request.set_key(key);
  request.set_parent(parent);
  Put(labels, request.mutable_labels());
  FASTOCI_CHECK_OK(Done(impl_->snapshots->Prepare(impl_->Context(kLongCall).get(), request, &reply), "prepare " + key));
  return MountsOf(reply);
}

Result<std::vector<ContainerdMount>> ContainerdClient::SnapshotMounts(const std::string& snapshotter,
                                                                      const std::string& key) {
  snapshots_api::MountsRequest request;
  snapshots_api::MountsResponse reply;
  request.set_snapshotter(snapshotter);
  request.set_key(key);
  FASTOCI_CHECK_OK(Done(impl_->snapshots->Mounts(impl_->Context().get(), request, &reply), "mounts of " + key));
  return MountsOf(reply);
}

Status ContainerdClient::CommitSnapshot(const std::string& snapshotter, const std::string& name,
                                        const std::string& key, const LabelMap& labels) {
  snapshots_api::CommitSnapshotRequest request;
  google::protobuf::Empty reply;
  request.set_snapshotter(snapshotter);
  request.set_name(name);
  request.set_key(key);
  Put(labels, request.mutable_labels());
  return Done(impl_->snapshots->Commit(impl_->Context(kLongCall).get(), request, &reply), "commit " + name);
}

Status ContainerdClient::RemoveSnapshot(const std::string& snapshotter, const std::string& key) {
  snapshots_api::RemoveSnapshotRequest request;
  google::protobuf::Empty reply;
  request.set_snapshotter(snapshotter);
  request.set_key(key);
  return Done(impl_->snapshots->Remove(impl_->Context().get(), request, &reply), "remove " + key);
}

Result<std::string> ContainerdClient::Apply(const ContentDescriptor& layer,
                                            const std::vector<ContainerdMount>& mounts) {
  diff_api::ApplyRequest request;
  diff_api::ApplyResponse reply;
  PutDescriptor(layer, request.mutable_diff());
  for (const ContainerdMount& mount : mounts) {
    auto* m = request.add_mounts();
    m->set_type(mount.type);
    m->set_source(mount.source);
    m->set_target(mount.target);
    for (const std::string& option : mount.options) m->add_options(option);
  }
  FASTOCI_CHECK_OK(Done(impl_->diff->Apply(impl_->Context(kLongCall).get(), request, &reply), "unpack " + layer.digest));
  return reply.applied().digest();
}

Status ContainerdClient::PutImage(const std::string& name, const ContentDescriptor& target, const LabelMap& labels) {
  images_api::CreateImageRequest create;
  images_api::CreateImageResponse created;
  create.mutable_image()->set_name(name);
  PutDescriptor(target, create.mutable_image()->mutable_target());
  Put(labels, create.mutable_image()->mutable_labels());
  const grpc::Status status = impl_->images->Create(impl_->Context().get(), create, &created);
  if (status.error_code() != grpc::ALREADY_EXISTS) return Done(status, "image " + name);
  images_api::UpdateImageRequest update;
  images_api::UpdateImageResponse updated;
  *update.mutable_image() = create.image();
  update.mutable_update_mask()->add_paths("target");
  for (const auto& [key, value] : labels) update.mutable_update_mask()->add_paths("labels." + key);
  return Done(impl_->images->Update(impl_->Context().get(), update, &updated), "image " + name);
}

}  // namespace fastoci
