# The program in a container, for Linux on x86-64:
#
#     docker build --tag multidigit .                            for the CPU
#     docker build --tag multidigit:cuda --target cuda .         for NVIDIA GPUs
#
#     docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/data" multidigit run train evaluate report --recipe fast
#     docker run --rm --gpus all ... multidigit:cuda run train --set train.device=cuda
#
# The folder /data takes the place of the current folder: raw/, artifacts/ and pipeline.yaml are looked for in it.

FROM rust:1.95.0-slim-trixie AS rust

# ---- for NVIDIA GPUs

FROM nvidia/cuda:13.0.2-cudnn-devel-ubuntu24.04 AS build-cuda
ENV CARGO_HOME=/usr/local/cargo RUSTUP_HOME=/usr/local/rustup PATH=/usr/local/cargo/bin:$PATH
COPY --from=rust /usr/local/cargo /usr/local/cargo
COPY --from=rust /usr/local/rustup /usr/local/rustup
WORKDIR /source
COPY . .
# The commit, for the record of a training: the folder .git is not copied.
ARG MULTIDIGIT_COMMIT
# candle's kernels are PTX for this GPU (Ampere), from which the driver makes code for it and all later ones. The linker finds the
# stand-in for the driver.
RUN CUDA_COMPUTE_CAP=80 LIBRARY_PATH=/usr/local/cuda/lib64/stubs \
    scripts/remap.sh cargo build --release --locked --features cloud,cuda && strip target/release/multidigit

FROM nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04 AS cuda
COPY --from=build-cuda /source/LICENSE* /usr/local/share/doc/multidigit/
COPY --from=build-cuda /source/target/release/multidigit /usr/local/bin/
# A volume without an owner takes that of the folder.
RUN install --directory --owner=1000 --group=1000 /data
WORKDIR /data
VOLUME /data
USER 1000:1000
ENTRYPOINT ["multidigit"]
CMD ["--help"]

# ---- for the CPU, the last and therefore the default

FROM rust AS build
WORKDIR /source
COPY . .
ARG MULTIDIGIT_COMMIT
RUN scripts/remap.sh cargo build --release --locked --features cloud && strip target/release/multidigit

FROM debian:trixie-20260803-slim AS cpu
COPY --from=build /source/LICENSE* /usr/local/share/doc/multidigit/
COPY --from=build /source/target/release/multidigit /usr/local/bin/
RUN install --directory --owner=1000 --group=1000 /data
WORKDIR /data
VOLUME /data
USER 1000:1000
ENTRYPOINT ["multidigit"]
CMD ["--help"]
