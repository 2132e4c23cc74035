// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/service.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "snapshotter/store.h"

namespace fastoci {
namespace {

TEST(StatusCodeTest, TheStoresMarksAreContainerdsConditions) {
  EXPECT_EQ(StatusCodeOf({ErrorKind::kIo, kMarkTaken, ""}), grpc::ALREADY_EXISTS);
  EXPECT_EQ(StatusCodeOf({ErrorKind::kInvalid, kMarkState, ""}), grpc::FAILED_PRECONDITION);
  EXPECT_EQ(StatusCodeOf({ErrorKind::kNotFound, kMarkMissing, ""}), grpc::NOT_FOUND);
  EXPECT_EQ(StatusCodeOf(Error{ErrorKind::kNotFound, kMarkMissing, ""}.Wrap("the parent")), grpc::NOT_FOUND);
}

// AlreadyExists makes containerd believe that a snapshot is there, NotFound that it is gone, and
// FailedPrecondition that it has children.
TEST(StatusCodeTest, ErrorsOfDevicesAndRegistriesAreNone) {
  EXPECT_EQ(StatusCodeOf(ErrnoError("create fastoci-ctd-1", EEXIST)), grpc::INTERNAL);
  EXPECT_EQ(StatusCodeOf(ErrnoError("remove a directory", ENOTEMPTY)), grpc::INTERNAL);
  EXPECT_EQ(StatusCodeOf(NotFoundError("the layer is not in the registry any more")), grpc::INTERNAL);
  EXPECT_EQ(StatusCodeOf({ErrorKind::kUnsupported, ENOENT, "no target"}), grpc::UNAVAILABLE);
  EXPECT_EQ(StatusCodeOf({ErrorKind::kUnavailable, ETIMEDOUT, ""}), grpc::UNAVAILABLE);
  EXPECT_EQ(StatusCodeOf({ErrorKind::kDenied, EKEYREJECTED, ""}), grpc::PERMISSION_DENIED);
  EXPECT_EQ(StatusCodeOf(MismatchError("")), grpc::DATA_LOSS);
  EXPECT_EQ(StatusCodeOf(InvalidError("")), grpc::INVALID_ARGUMENT);
}

}  // namespace
}  // namespace fastoci
