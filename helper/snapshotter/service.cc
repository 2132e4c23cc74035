// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/service.h"

#include <grpcpp/grpcpp.h>
#include <sys/stat.h>

#include <chrono>

#include "base/log.h"
#include "base/unique_fd.h"
#include "containerd/snapshots.grpc.pb.h"
#include "snapshotter/metrics.h"
#include "snapshotter/snapshotter.h"

namespace fastoci {
namespace {

namespace api = containerd::services::snapshots::v1;
using google::protobuf::Empty;
using grpc::ServerContext;

constexpr int kMaxMessage = 16 << 20;
constexpr int kListBatch = 100;
constexpr auto kShutdown = std::chrono::seconds(5);

const char* CodeName(grpc::StatusCode code) {
  switch (code) {
    case grpc::OK: return "OK";
    case grpc::NOT_FOUND: return "NotFound";
    case grpc::ALREADY_EXISTS: return "AlreadyExists";
    case grpc::FAILED_PRECONDITION: return "FailedPrecondition";
    case grpc::INVALID_ARGUMENT: return "InvalidArgument";
    case grpc::UNAVAILABLE: return "Unavailable";
    case grpc::PERMISSION_DENIED: return "PermissionDenied";
    case grpc::DATA_LOSS: return "DataLoss";
    default: return "Internal";
  }
}

void PutTime(int64_t ns, google::protobuf::Timestamp* out) {
  out->set_seconds(ns / 1000000000);
  out->set_nanos(static_cast<int32_t>(ns % 1000000000));
}

void PutInfo(const Snapshot& s, api::Info* out) {
  out->set_name(s.name);
  out->set_parent(s.parent);
  out->set_kind(static_cast<api::Kind>(s.kind));
  PutTime(s.created_ns, out->mutable_created_at());
  PutTime(s.updated_ns, out->mutable_updated_at());
  for (const auto& [key, value] : s.labels) (*out->mutable_labels())[key] = value;
}

template <typename Map>
Labels LabelsOf(const Map& map) {
  return Labels(map.begin(), map.end());
}

template <typename Response>
void PutMounts(const std::vector<MountSpec>& mounts, Response* out) {
  for (const MountSpec& mount : mounts) {
    auto* m = out->add_mounts();
    m->set_type(mount.type);
    m->set_source(mount.source);
    for (const std::string& option : mount.options) m->add_options(option);
  }
}

class Service final : public api::Snapshots::Service {
 public:
  Service(Snapshotter* snapshotter, SnapshotterMetrics* metrics) : s_(*snapshotter), metrics_(*metrics) {}

  grpc::Status Prepare(ServerContext*, const api::PrepareSnapshotRequest* in,
                       api::PrepareSnapshotResponse* out) override {
    return Answer("Prepare", in->key(), [&] { return s_.Prepare(in->key(), in->parent(), LabelsOf(in->labels())); },
                  [&](const auto& mounts) { PutMounts(mounts, out); });
  }
  grpc::Status View(ServerContext*, const api::ViewSnapshotRequest* in, api::ViewSnapshotResponse* out) override {
    return Answer("View", in->key(), [&] { return s_.View(in->key(), in->parent(), LabelsOf(in->labels())); },
                  [&](const auto& mounts) { PutMounts(mounts, out); });
  }
  grpc::Status Mounts(ServerContext*, const api::MountsRequest* in, api::MountsResponse* out) override {
    return Answer("Mounts", in->key(), [&] { return s_.Mounts(in->key()); },
                  [&](const auto& mounts) { PutMounts(mounts, out); });
  }
  grpc::Status Commit(ServerContext*, const api::CommitSnapshotRequest* in, Empty*) override {
    return Answer("Commit", in->key(),
                  [&] { return s_.Commit(in->name(), in->key(), in->parent(), LabelsOf(in->labels())); },
                  [](const Ok&) {});
  }
  grpc::Status Remove(ServerContext*, const api::RemoveSnapshotRequest* in, Empty*) override {
    return Answer("Remove", in->key(), [&] { return s_.Remove(in->key()); }, [](const Ok&) {});
  }
  grpc::Status Stat(ServerContext*, const api::StatSnapshotRequest* in, api::StatSnapshotResponse* out) override {
    return Answer("Stat", in->key(), [&] { return s_.Stat(in->key()); },
                  [&](const Snapshot& s) { PutInfo(s, out->mutable_info()); });
  }
  grpc::Status Update(ServerContext*, const api::UpdateSnapshotRequest* in,
                      api::UpdateSnapshotResponse* out) override {
    const auto& mask = in->update_mask().paths();
    return Answer("Update", in->info().name(),
                  [&] {
                    return s_.Update(in->info().name(), LabelsOf(in->info().labels()),
                                     std::vector<std::string>(mask.begin(), mask.end()));
                  },
                  [&](const Snapshot& s) { PutInfo(s, out->mutable_info()); });
  }
  grpc::Status List(ServerContext*, const api::ListSnapshotsRequest* in,
                    grpc::ServerWriter<api::ListSnapshotsResponse>* writer) override {
    const std::vector<std::string> filters(in->filters().begin(), in->filters().end());
    return Answer("List", "", [&] { return s_.List(filters); },
                  [&](const std::vector<Snapshot>& all) {
                    api::ListSnapshotsResponse batch;
                    for (const Snapshot& s : all) {
                      PutInfo(s, batch.add_info());
                      if (batch.info_size() < kListBatch) continue;
                      if (!writer->Write(batch)) return;  // the client is gone
                      batch.Clear();
                    }
                    if (batch.info_size() > 0) writer->Write(batch);
                  });
  }
  grpc::Status Usage(ServerContext*, const api::UsageRequest* in, api::UsageResponse* out) override {
    return Answer("Usage", in->key(), [&] { return s_.Usage(in->key()); },
                  [&](const DiskUsage& usage) {
                    out->set_size(usage.bytes);
                    out->set_inodes(usage.inodes);
                  });
  }
  grpc::Status Cleanup(ServerContext*, const api::CleanupRequest*, Empty*) override {
    return Answer("Cleanup", "", [&] { return s_.Cleanup(); }, [](const Ok&) {});
  }

 private:
  template <typename Call, typename Put>
  grpc::Status Answer(const char* method, const std::string& key, const Call& call, const Put& put) {
    const auto begin = std::chrono::steady_clock::now();
    auto result = call();
    grpc::Status status = grpc::Status::OK;
    if (result.ok()) put(*result);
    else status = grpc::Status(static_cast<grpc::StatusCode>(StatusCodeOf(result.error())), result.error().message);
    metrics_.Answered(method, CodeName(status.error_code()), std::chrono::steady_clock::now() - begin);
    const bool expected = status.ok() || status.error_code() == grpc::ALREADY_EXISTS ||
                          status.error_code() == grpc::NOT_FOUND || status.error_code() == grpc::FAILED_PRECONDITION;
    Log(expected ? LogLevel::kDebug : LogLevel::kWarning, "%s %s: %s %s", method, key.c_str(),
        CodeName(status.error_code()), status.error_message().c_str());
    return status;
  }
  Snapshotter& s_;
  SnapshotterMetrics& metrics_;
};

}  // namespace

int StatusCodeOf(const Error& error) {
  switch (error.err) {
    case kMarkTaken: return grpc::ALREADY_EXISTS;
    case kMarkState: return grpc::FAILED_PRECONDITION;
    case kMarkMissing: return grpc::NOT_FOUND;
    default: break;
  }
  switch (error.kind) {
    case ErrorKind::kInvalid: return grpc::INVALID_ARGUMENT;
    case ErrorKind::kDenied: return grpc::PERMISSION_DENIED;
    case ErrorKind::kMismatch: return grpc::DATA_LOSS;
    case ErrorKind::kUnavailable:
    case ErrorKind::kUnsupported:  // of the kernel, as it is now
      return grpc::UNAVAILABLE;
    default: return grpc::INTERNAL;  // kNotFound, too: of a registry or a device
  }
}

struct SnapshotServer::Impl {
  Impl(Snapshotter* snapshotter, SnapshotterMetrics* metrics) : service(snapshotter, metrics) {}
  Service service;
  std::unique_ptr<grpc::Server> server;
};

SnapshotServer::SnapshotServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

SnapshotServer::~SnapshotServer() { impl_->server->Shutdown(std::chrono::system_clock::now() + kShutdown); }

Result<std::unique_ptr<SnapshotServer>> SnapshotServer::Start(const std::string& socket_path,
                                                              Snapshotter* snapshotter,
                                                              SnapshotterMetrics* metrics) {
  const size_t slash = socket_path.rfind('/');
  if (socket_path.empty() || socket_path[0] != '/') return InvalidError("the socket needs an absolute path");
  FASTOCI_CHECK_OK(MakeDirs(socket_path.substr(0, slash), 0711));
  auto impl = std::make_unique<Impl>(snapshotter, metrics);
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(kMaxMessage);
  builder.AddListeningPort("unix:" + socket_path, grpc::InsecureServerCredentials());
  builder.RegisterService(&impl->service);
  impl->server = builder.BuildAndStart();
  if (!impl->server) return ErrnoError("listen on " + socket_path, EADDRINUSE);
  if (::chmod(socket_path.c_str(), 0600) != 0) {
    impl->server->Shutdown();
    return ErrnoError("chmod " + socket_path);
  }
  return std::unique_ptr<SnapshotServer>(new SnapshotServer(std::move(impl)));
}

}  // namespace fastoci
