// SPDX-License-Identifier: Apache-2.0
//! Starting the programs on their hosts and waiting until they do their work.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::running;
use crate::lab::state::State;
use crate::lab::{CONTROL, UPLINK, address, enter, home};
use crate::{kube, paths, ui};

/// A control plane that takes longer than this to answer is broken; two loaded cores need a few seconds.
const CONTROL_LIMIT: Duration = Duration::from_secs(60);
/// The same for nodes, which also load their kernel programs.
const READY_LIMIT: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(100);
/// How much of a log an error repeats.
const LOG_LINES_SHOWN: usize = 15;
/// The port of the API and the node feed on the control plane's host.
const CONTROL_PORT: u16 = 6443;

/// What to do with a program that runs already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Running {
    /// Leave it.
    Keep,
    /// It is an older build.
    Restart,
}

/// The log of a host's program.
pub fn log(name: &str) -> PathBuf {
    paths::logs().join(format!("{name}.log"))
}

/// Starts the control plane and waits until it answers; then the kubeconfig is there.
pub fn start_control(
    state: &mut State,
    flags: &[String],
    on_running: Running,
) -> anyhow::Result<()> {
    let mut command = control_command(state.api_port, flags)?;
    let before = &state.host(CONTROL)?.command;
    if flags.is_empty() && !before.is_empty() {
        // Who asks for nothing special takes what is there.
        command.clone_from(before);
    }
    let same = *before == command;
    state.host_mut(CONTROL)?.command = command;
    let on_running = if same { on_running } else { Running::Restart };
    start_control_again(state, on_running)
}

/// Starts the control plane with the flags that it had before.
pub fn start_control_again(state: &mut State, on_running: Running) -> anyhow::Result<()> {
    let port = state.api_port;
    start_service(state, CONTROL, Some(port), on_running)?;
    let step = ui::step("waiting for the control plane");
    wait_control(state)?;
    step.done();
    Ok(())
}

/// Starts the control plane without waiting for anything.
pub fn launch_control(state: &mut State) -> anyhow::Result<()> {
    let port = state.api_port;
    state.host_mut(CONTROL)?.command = control_command(port, &[])?;
    start_service(state, CONTROL, Some(port), Running::Keep)
}

fn control_command(api_port: u16, flags: &[String]) -> anyhow::Result<Vec<String>> {
    let address = address(CONTROL).context("the control plane's host has an address")?;
    let listen = format!("{address}:{CONTROL_PORT}");
    let url = format!("https://127.0.0.1:{api_port}");
    let mut command: Vec<String> = [
        "knarr-control",
        "serve",
        "--data-dir",
        "/var/lib/knarr-control",
        "--listen",
        &listen,
        "--advertise-url",
        &url,
    ]
    .map(str::to_owned)
    .to_vec();
    command.extend_from_slice(flags);
    Ok(command)
}

/// Copies the kubeconfig `made` by the control plane to `given`, unless that has been done: what people changed in it
/// since, such as the namespace, stays until the control plane makes another.
pub fn hand_out(made: &Path, given: &Path) -> anyhow::Result<()> {
    let copied = given.with_extension("handed-out");
    let content = fs::read(made).with_context(|| format!("cannot read {}", made.display()))?;
    if given.exists() && fs::read(&copied).ok().as_ref() == Some(&content) {
        return Ok(());
    }
    fs::copy(made, given).context("cannot copy the kubeconfig")?;
    // After it: a copy that was not finished is made again.
    fs::copy(made, &copied).context("cannot note that the kubeconfig was copied")?;
    Ok(())
}

/// Waits until the API answers through the kubeconfig.
pub fn wait_control(state: &State) -> anyhow::Result<()> {
    let made = home(CONTROL).join("data").join("admin.kubeconfig");
    let end = Instant::now() + CONTROL_LIMIT;
    loop {
        check_running(state, CONTROL)?;
        let mut problem = format!("it has not written {}", paths::show(&made));
        if made.exists() {
            hand_out(&made, &paths::kubeconfig())?;
            match kube::get(&["get", "--raw", "/readyz"]) {
                Ok(_) => return Ok(()),
                Err(error) => problem = error.to_string(),
            }
        }
        if Instant::now() >= end {
            bail!(
                "the control plane does not answer: {problem}\n{}",
                log_tail(CONTROL)
            );
        }
        std::thread::sleep(POLL);
    }
}

/// Starts the agents of all nodes that are running as hosts.
pub fn start_agents(state: &mut State, on_running: Running) -> anyhow::Result<()> {
    let nodes = state.nodes();
    let mut join: Option<(String, String)> = None;
    for name in &nodes {
        if state.host(name)?.command.is_empty() {
            if join.is_none() {
                join = Some(join_arguments()?);
            }
            let (token, ca_hash) = join.as_ref().context("a join token was made")?;
            let server = format!(
                "https://{}:{CONTROL_PORT}",
                address(CONTROL).context("the control plane's host has an address")?
            );
            let ip = address(name).context("a node has an address")?.to_string();
            state.host_mut(name)?.command = [
                "knarr-agent",
                "run",
                "--server",
                &server,
                "--token",
                token,
                "--ca-hash",
                ca_hash,
                "--node-name",
                name,
                "--node-ip",
                &ip,
                "--uplink",
                UPLINK,
            ]
            .map(str::to_owned)
            .to_vec();
        }
        if running(state.host(name)?.init) {
            start_service(state, name, None, on_running)?;
        }
    }
    Ok(())
}

/// Starts a host's program as it was started before.
pub fn start_service(
    state: &mut State,
    name: &str,
    listen: Option<u16>,
    on_running: Running,
) -> anyhow::Result<()> {
    if let Some(service) = state.host(name)?.service.filter(|service| service.alive()) {
        if on_running == Running::Keep {
            return Ok(());
        }
        stop_service(service)?;
    }
    let command = state.host(name)?.command.clone();
    // The entry is there before the process: `down` ends what is in the host's cgroup.
    state.save()?;
    let process = enter::detached(name, &log(name), listen, &command)?;
    state.host_mut(name)?.service = Some(process);
    state.save()
}

/// Asks a program to end, as an upgrade does.
fn stop_service(service: crate::process::Process) -> anyhow::Result<()> {
    const STOP_LIMIT: Duration = Duration::from_secs(10);
    service.signal(nix::sys::signal::Signal::SIGTERM);
    if !service.wait_gone(STOP_LIMIT) && !service.kill_and_wait(STOP_LIMIT) {
        bail!("process {} does not end", service.pid);
    }
    Ok(())
}

/// The token and the CA's hash for joining, from the line that the control plane prints for people.
fn join_arguments() -> anyhow::Result<(String, String)> {
    let line = enter::output(
        CONTROL,
        &[
            "knarr-control",
            "token",
            "create",
            "--data-dir",
            "/var/lib/knarr-control",
        ],
    )
    .context("cannot make a token for joining nodes")?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let after = |flag: &str| {
        words
            .iter()
            .position(|word| *word == flag)
            .and_then(|at| words.get(at + 1))
            .map(|value| (*value).to_owned())
            .with_context(|| {
                format!(
                    "`knarr-control token create` printed no {flag}: {}",
                    line.trim()
                )
            })
    };
    Ok((after("--token")?, after("--ca-hash")?))
}

/// Brings the images to every node.
pub fn import_images(state: &State, images: &[PathBuf]) -> anyhow::Result<()> {
    let step = ui::step(format!(
        "importing {} images on {} nodes",
        images.len(),
        state.nodes().len()
    ));
    for name in state.nodes() {
        if !running(state.host(&name)?.init) {
            continue;
        }
        for image in images {
            let path = image
                .to_str()
                .context("an image file has a name that is text")?;
            step.say(&format!(
                "{name}, {}",
                image.file_stem().unwrap_or_default().to_string_lossy()
            ));
            import_one(&name, path)
                .with_context(|| format!("cannot import {} on {name}", paths::show(image)))?;
        }
    }
    step.done();
    Ok(())
}

fn import_one(node: &str, path: &str) -> anyhow::Result<()> {
    enter::output(node, &["knarr-agent", "image", "import", path]).map(drop)
}

/// Waits until every running node is Ready.
pub fn wait_ready(state: &State) -> anyhow::Result<()> {
    let step = ui::step("waiting for the nodes");
    let wanted: Vec<String> = state
        .nodes()
        .into_iter()
        .filter(|name| running(state.host(name).ok().and_then(|host| host.init)))
        .collect();
    let end = Instant::now() + READY_LIMIT;
    loop {
        for name in &wanted {
            check_running(state, name)?;
        }
        let ready = ready_nodes().unwrap_or_default();
        let missing: Vec<&String> = wanted.iter().filter(|name| !ready.contains(name)).collect();
        let Some(first) = missing.first() else { break };
        if Instant::now() >= end {
            bail!(
                "{} not Ready after {} s\n{}",
                missing
                    .iter()
                    .map(|name| name.as_str())
                    .collect::<Vec<_>>()
                    .join(", "),
                READY_LIMIT.as_secs(),
                log_tail(first)
            );
        }
        step.say(&format!(
            "{} of {} Ready",
            wanted.len() - missing.len(),
            wanted.len()
        ));
        std::thread::sleep(POLL);
    }
    step.done_with(&format!("{} Ready", wanted.len()));
    Ok(())
}

fn ready_nodes() -> anyhow::Result<Vec<String>> {
    let listed = kube::get(&[
        "get",
        "nodes",
        "--output",
        r#"jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}"#,
    ])?;
    Ok(listed
        .lines()
        .filter_map(|line| line.strip_suffix(" True"))
        .map(str::to_owned)
        .collect())
}

fn check_running(state: &State, name: &str) -> anyhow::Result<()> {
    if running(state.host(name)?.service) {
        return Ok(());
    }
    bail!("the program on {name} ended\n{}", log_tail(name))
}

fn log_tail(name: &str) -> String {
    let path = log(name);
    format!("the end of {}:\n{}", paths::show(&path), tail(&path))
}

fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..]
        .iter()
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_in_the_kubeconfig_stays_until_another_is_made() {
        let dir = tempfile::tempdir().expect("a folder");
        let (made, given) = (dir.path().join("made"), dir.path().join("kubeconfig"));
        let hand_out = |content: &str| {
            fs::write(&made, content).expect("made");
            hand_out(&made, &given).expect("handed out");
            fs::read_to_string(&given).expect("given")
        };
        assert_eq!(hand_out("first"), "first");
        fs::write(&given, "first, namespace: mine").expect("changed");
        assert_eq!(hand_out("first"), "first, namespace: mine");
        assert_eq!(hand_out("second"), "second");
        fs::remove_file(&given).expect("removed");
        assert_eq!(hand_out("second"), "second");
    }
}
