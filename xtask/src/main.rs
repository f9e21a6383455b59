// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask`: sets a machine up, builds, runs a cluster of "hosts" made of namespaces, tests and measures it.
//! It uses nothing of ours as a library: it drives the programs as a user would. Called by people and by `.ci/run`.
#![forbid(unsafe_code)]

mod bench;
mod build;
mod ci;
mod cli;
mod demo;
mod dist;
mod ebpf;
mod http;
mod images;
mod kube;
mod lab;
mod metadata;
mod paths;
mod process;
mod run;
mod setup;
mod test;
mod tidy;
mod ui;
mod up;
mod vm;

fn main() -> std::process::ExitCode {
    cli::main()
}
