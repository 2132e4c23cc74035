#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""cri.py SOCKET COMMAND...: asks a runtime as the kubelet does. What it prints is one word or a line of JSON.

    pull IMAGE [USER:PASSWORD]      the image's id
    rmi IMAGE
    images                          tags
    pod NAME                        runs a sandbox with the machine's network; its id
    run POD NAME IMAGE COMMAND...   creates and starts a container; its id. NAME=VOLUME: that image is its /volume
    exec CONTAINER COMMAND...       its output and status
    stats CONTAINER                 bytes and inodes of its writable layer
    imagefs                         mount point and bytes of images
    rm CONTAINER, rmp POD           stops and removes
"""
import json, os, subprocess, sys

import grpc

here = os.path.dirname(os.path.abspath(__file__))
made = "/run/selftest/cri"
if not os.path.exists(made + "/cri_pb2.py"):
    os.makedirs(made, exist_ok=True)
    subprocess.run(["protoc", "-I", here, f"--python_out={made}", f"{here}/cri.proto"], check=True)
sys.path.insert(0, made)
import cri_pb2 as pb  # noqa: E402

LOGS = "/run/selftest/pods"
NODE = pb.NamespaceOption(network=pb.NODE)


def pod_config(name):
    return pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(name=name, uid="uid-" + name, namespace="default"), log_directory=LOGS,
        linux=pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(namespace_options=NODE)))


def main():
    socket, command, *rest = sys.argv[1:]
    channel = grpc.insecure_channel("unix:" + socket, options=[("grpc.default_authority", "localhost")])

    def ask(method, request, reply=pb.Empty, service="RuntimeService"):
        call = channel.unary_unary(f"/runtime.v1.{service}/{method}", type(request).SerializeToString, reply.FromString)
        return call(request, timeout=300)

    def image(method, request, reply=pb.Empty):
        return ask(method, request, reply, "ImageService")

    if command == "pull":
        auth = pb.AuthConfig(**dict(zip(("username", "password"), rest[1].split(":")))) if len(rest) > 1 else None
        request = pb.PullImageRequest(image=pb.ImageSpec(image=rest[0]), auth=auth, sandbox_config=pod_config("pull"))
        print(image("PullImage", request, pb.PullImageResponse).image_ref)
    elif command == "rmi":
        image("RemoveImage", pb.RemoveImageRequest(image=pb.ImageSpec(image=rest[0])))
    elif command == "images":
        for i in image("ListImages", pb.Empty(), pb.ListImagesResponse).images:
            print(*i.repo_tags)
    elif command == "pod":
        os.makedirs(LOGS, exist_ok=True)
        request = pb.RunPodSandboxRequest(config=pod_config(rest[0]))
        print(ask("RunPodSandbox", request, pb.RunPodSandboxResponse).pod_sandbox_id)
    elif command == "run":
        pod, name, ref, *words = rest
        name, _, volume = name.partition("=")
        mounts = [pb.Mount(container_path="/volume", readonly=True, image=pb.ImageSpec(image=volume))] if volume else []
        config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=name), image=pb.ImageSpec(image=ref), command=words, log_path=name + ".log",
            mounts=mounts, linux=pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(namespace_options=NODE)))
        request = pb.CreateContainerRequest(pod_sandbox_id=pod, config=config, sandbox_config=pod_config("sandbox"))
        container = ask("CreateContainer", request, pb.CreateContainerResponse).container_id
        ask("StartContainer", pb.ContainerRequest(container_id=container))
        print(container)
    elif command == "exec":
        reply = ask("ExecSync", pb.ExecSyncRequest(container_id=rest[0], cmd=rest[1:], timeout=60), pb.ExecSyncResponse)
        sys.stdout.write(reply.stdout.decode() + reply.stderr.decode())
        sys.exit(reply.exit_code)
    elif command == "stats":
        usage = ask("ContainerStats", pb.ContainerRequest(container_id=rest[0]), pb.ContainerStatsResponse).stats.writable_layer
        print(json.dumps({"bytes": usage.used_bytes.value, "inodes": usage.inodes_used.value}))
    elif command == "imagefs":
        for usage in image("ImageFsInfo", pb.Empty(), pb.ImageFsInfoResponse).image_filesystems:
            print(json.dumps({"mountpoint": usage.fs_id.mountpoint, "bytes": usage.used_bytes.value}))
    elif command == "rm":
        ask("StopContainer", pb.ContainerRequest(container_id=rest[0]))
        ask("RemoveContainer", pb.ContainerRequest(container_id=rest[0]))
    elif command == "rmp":
        ask("StopPodSandbox", pb.PodRequest(pod_sandbox_id=rest[0]))
        ask("RemovePodSandbox", pb.PodRequest(pod_sandbox_id=rest[0]))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as e:
        sys.exit(f"{e.code().name}: {e.details()}")
