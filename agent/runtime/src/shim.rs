// SPDX-License-Identifier: Apache-2.0
//! The process that holds one pod: pause, containers, their logs and exit codes.
//!
//! It is the agent's own program, executed again, with one thread and no tokio: libcontainer's children
//! run allocating code between clone and exec, which hangs in a process with threads. It survives the
//! agent, reaps what the pod leaves behind, and serves one unix socket.
//!
//! ```text
//! shim_main ── daemon ──> server (poll loop) ── fork ──> creator ── libcontainer ──> container
//!                 └─ fork ──> pause
//! ```
//!
//! Not here: decisions about restarts (the agent's), networks (`agent/datapath`).

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::process::ProcessId;
use crate::protocol::{ShimConfig, ShimState, Snapshot};
use crate::sys::{self, Forked};
use crate::tree::{Durability, write_file};

mod bundle;
mod client;
mod container;
mod creator;
mod devices;
mod executor;
mod pause;
mod server;
mod user;

/// The exit code of a container that could not be started (Kubernetes shows the same with runc).
const EXIT_CODE_NOT_STARTED: i32 = 128;
/// The program of the pause process, assembled by build.rs.
pub(crate) const PAUSE_PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

/// What the first process prints when the shim is ready.
pub(crate) const READY: &str = "ready";
/// The name shown by ps(1).
const PROCESS_NAME: &std::ffi::CStr = c"knarr-shim";
/// Keeps the shim alive when the node runs out of memory (containerd's value for its shims).
const OOM_SCORE_ADJ: &str = "-998";

/// Runs as a pod's shim and returns the exit status. `args` is what follows
/// [`crate::RuntimeConfig::shim_args`]. To be called before the process has a second thread or a tokio
/// runtime. Returns when the shim is ready or has failed; the shim itself goes on in another process.
pub fn shim_main(args: Vec<OsString>) -> i32 {
    let dir = match <[OsString; 1]>::try_from(args) {
        Ok([dir]) => PathBuf::from(dir),
        Err(_) => {
            println!("usage: shim SANDBOX_DIRECTORY (started by knarr-agent, not by hand)");
            return 2;
        }
    };
    // Executed by descriptor, it is called after a number.
    let named = nix::sys::prctl::set_name(PROCESS_NAME).map_err(io::Error::from);
    match named.and_then(|()| daemon(&dir)) {
        Ok(message) => {
            println!("{message}");
            i32::from(message != READY)
        }
        Err(e) => {
            println!("{e}");
            1
        }
    }
}

/// Forks the shim off and waits for its first words, so that it has no parent that would have to wait for
/// it later.
fn daemon(dir: &Path) -> io::Result<String> {
    // Nothing has been opened yet; what is open was left open by whoever started the agent.
    sys::close_others(&[])?;
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    match sys::fork()? {
        Forked::Parent(_) => {
            drop(write);
            let mut words = String::new();
            File::from(read).read_to_string(&mut words)?;
            if words.is_empty() {
                words = "the shim ended without a word".to_owned();
            }
            Ok(words)
        }
        Forked::Child => {
            drop(read);
            let outcome = std::panic::catch_unwind(|| run(dir, File::from(write)));
            sys::exit_now(i32::from(!matches!(outcome, Ok(Ok(())))))
        }
    }
}

/// The shim itself. Errors before it is ready go to the starter, later ones to its log file.
fn run(dir: &Path, mut starter: File) -> io::Result<()> {
    let result = set_up(dir);
    match result {
        Ok(server) => {
            starter.write_all(READY.as_bytes())?;
            drop(starter);
            server.run()
        }
        Err(e) => {
            starter.write_all(e.to_string().as_bytes())?;
            Err(e)
        }
    }
}

fn set_up(dir: &Path) -> io::Result<server::Server> {
    let about = |what: &'static str| move |e: io::Error| io::Error::other(format!("{what}: {e}"));
    // Before pause is started: whoever holds the starter's pipe keeps the agent waiting.
    detach_output(&dir.join("shim.log")).map_err(about("opening shim.log"))?;
    let bytes =
        std::fs::read(ShimConfig::config_path(dir)).map_err(about("reading sandbox.json"))?;
    let config: ShimConfig = serde_json::from_slice(&bytes)?;
    nix::unistd::setsid()?;
    nix::unistd::chdir("/")?;
    nix::sys::prctl::set_child_subreaper(true)?;
    config
        .cgroup
        .join_shim(&config.pod_cgroup)
        .map_err(|e| about("joining the shim's cgroup")(io::Error::other(knarr_base::chain(&e))))?;
    // Lowering it needs CAP_SYS_RESOURCE, which a node in a container may lack.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
    detach_input()?;
    let pause = pause::spawn(&config).map_err(about("starting the pause process"))?;
    let ready = listen(dir)
        .map_err(about("listening"))
        .and_then(|listener| server::Server::new(config, listener, pause));
    if ready.is_err() {
        let _ = pause.signal(libc::SIGKILL);
    }
    ready
}

/// Binds the socket by way of the directory's descriptor: paths of sockets end after 108 bytes.
fn listen(dir: &Path) -> io::Result<UnixListener> {
    let fd = crate::tree::open_dir(dir)?;
    let path = crate::tree::fd_path(&fd).join(ShimConfig::socket_name());
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn detach_input() -> io::Result<()> {
    let null = nix::fcntl::open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    nix::unistd::dup2_stdin(&null)?;
    Ok(())
}

/// What the shim says from now on (panics) is found in a file.
fn detach_output(path: &Path) -> io::Result<()> {
    let file = File::options().create(true).append(true).open(path)?;
    let file: OwnedFd = file.into();
    nix::unistd::dup2_stdout(file.as_fd())?;
    nix::unistd::dup2_stderr(file.as_fd())?;
    Ok(())
}

/// Writes the state file.
fn save(run_dir: &Path, pause: ProcessId, shim: ProcessId, snapshot: &Snapshot) -> io::Result<()> {
    let state = ShimState {
        format: crate::protocol::FORMAT,
        boot_id: crate::process::boot_id()?,
        shim,
        pause,
        snapshot: snapshot.clone(),
    };
    let bytes = serde_json::to_vec(&state)?;
    write_file(&ShimConfig::state_path(run_dir), &bytes, Durability::Atomic)
}
