#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""cri.py SOCKET HTTP_SOCKET: asks a runtime as the kubelet does. Stays, as Python takes seconds to start in a virtual machine:
on HTTP_SOCKET it takes posts of JSON lists of words (cri in containerd.sh makes them) and answers with a word or a line of JSON;
with status 500 if that failed.

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
import http.server, json, os, socketserver, subprocess, sys

import grpc

here = os.path.dirname(os.path.abspath(__file__))
made = "/run/selftest/cri"
os.makedirs(made, exist_ok=True)
subprocess.run(["protoc", "-I", here, f"--python_out={made}", f"{here}/cri.proto"], check=True)
sys.path.insert(0, made)
import cri_pb2 as pb  # noqa: E402

LOGS = "/run/selftest/pods"
NODE = pb.NamespaceOption(network=pb.NODE)
channel = grpc.insecure_channel("unix:" + sys.argv[1], options=[("grpc.default_authority", "localhost")])


class Failed(Exception):
    pass


def ask(method, request, reply=pb.Empty, service="RuntimeService"):
    call = channel.unary_unary(f"/runtime.v1.{service}/{method}", type(request).SerializeToString, reply.FromString)
    return call(request, timeout=300, wait_for_ready=True)


def image(method, request, reply=pb.Empty):
    return ask(method, request, reply, "ImageService")


def pod_config(name):
    return pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(name=name, uid="uid-" + name, namespace="default"), log_directory=LOGS,
        linux=pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(namespace_options=NODE)))


def pull(ref, login=None):
    auth = pb.AuthConfig(**dict(zip(("username", "password"), login.split(":")))) if login else None
    request = pb.PullImageRequest(image=pb.ImageSpec(image=ref), auth=auth, sandbox_config=pod_config("pull"))
    return image("PullImage", request, pb.PullImageResponse).image_ref


def rmi(ref):
    image("RemoveImage", pb.RemoveImageRequest(image=pb.ImageSpec(image=ref)))


def images():
    return " ".join(t for i in image("ListImages", pb.Empty(), pb.ListImagesResponse).images for t in i.repo_tags)


def pod(name):
    os.makedirs(LOGS, exist_ok=True)
    return ask("RunPodSandbox", pb.RunPodSandboxRequest(config=pod_config(name)), pb.RunPodSandboxResponse).pod_sandbox_id


def run(pod, name, ref, *words):
    name, _, volume = name.partition("=")
    mounts = [pb.Mount(container_path="/volume", readonly=True, image=pb.ImageSpec(image=volume))] if volume else []
    config = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name=name), image=pb.ImageSpec(image=ref), command=words, log_path=name + ".log",
        mounts=mounts, linux=pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(namespace_options=NODE)))
    request = pb.CreateContainerRequest(pod_sandbox_id=pod, config=config, sandbox_config=pod_config("sandbox"))
    container = ask("CreateContainer", request, pb.CreateContainerResponse).container_id
    ask("StartContainer", pb.ContainerRequest(container_id=container))
    return container


def exec_(container, *words):
    reply = ask("ExecSync", pb.ExecSyncRequest(container_id=container, cmd=words, timeout=60), pb.ExecSyncResponse)
    text = (reply.stdout.decode() + reply.stderr.decode()).rstrip("\n")
    if reply.exit_code:
        raise Failed(f"{text}\nexit code {reply.exit_code}")
    return text


def stats(container):
    usage = ask("ContainerStats", pb.ContainerRequest(container_id=container), pb.ContainerStatsResponse).stats.writable_layer
    return json.dumps({"bytes": usage.used_bytes.value, "inodes": usage.inodes_used.value})


def imagefs():
    return "\n".join(json.dumps({"mountpoint": usage.fs_id.mountpoint, "bytes": usage.used_bytes.value})
                     for usage in image("ImageFsInfo", pb.Empty(), pb.ImageFsInfoResponse).image_filesystems)


def rm(container):
    ask("StopContainer", pb.ContainerRequest(container_id=container))
    ask("RemoveContainer", pb.ContainerRequest(container_id=container))


def rmp(pod):
    ask("StopPodSandbox", pb.PodRequest(pod_sandbox_id=pod))
    ask("RemovePodSandbox", pb.PodRequest(pod_sandbox_id=pod))


COMMANDS = {f.__name__.rstrip("_"): f for f in (pull, rmi, images, pod, run, exec_, stats, imagefs, rm, rmp)}


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_POST(self):
        command, *words = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = 500
        try:
            text, status = COMMANDS[command](*words) or "", 200
        except grpc.RpcError as e:
            text = f"{e.code().name}: {e.details()}"
        except Failed as e:
            text = str(e)
        body = (text + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


Server(sys.argv[2], Handler).serve_forever()
