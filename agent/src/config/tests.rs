// SPDX-License-Identifier: Apache-2.0
//! Flags, files and addresses.
use clap::Parser;

use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: RunOptions,
}

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_nothing() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("agent.toml");
    std::fs::write(
        &path,
        "node-name = \"file\"\nmax-pods = 7\nuplink = \"eth9\"\n",
    )
    .expect("write");
    let path = path.to_str().expect("utf-8");
    let cli = Cli::parse_from(["x", "--config", path, "--node-name", "flag"]);
    let options = cli.options.with_file().expect("reads");
    assert_eq!(options.node_name.as_deref(), Some("flag"));
    assert_eq!(options.max_pods, Some(7));
    assert_eq!(options.uplink, ["eth9"]);
}

#[test]
fn an_unknown_option_in_the_file_is_named() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("agent.toml");
    std::fs::write(&path, "nod-name = \"x\"\n").expect("write");
    let options = RunOptions {
        config: Some(path),
        ..RunOptions::default()
    };
    let ConfigError::Parse { source, .. } = options.with_file().expect_err("refused") else {
        panic!("another error");
    };
    assert!(source.to_string().contains("nod-name"), "{source}");
}

#[test]
fn a_sysctl_that_is_not_namespaced_cannot_be_allowed() {
    let cli = Cli::parse_from([
        "x",
        "--allowed-unsafe-sysctls",
        "kernel.msg*,net.core.somaxconn",
    ]);
    assert!(cli.options.allowed_sysctls().is_ok());
    let cli = Cli::parse_from(["x", "--allowed-unsafe-sysctls", "vm.swappiness"]);
    let error = cli.options.allowed_sysctls().expect_err("refused");
    let text = error.to_string();
    assert!(
        text.starts_with("--allowed-unsafe-sysctls: \"vm.swappiness\" is not namespaced"),
        "{text}"
    );
}

#[test]
fn server_addresses_are_read_strictly() {
    let server = |text| Server::parse(text).map(|s| s.authority());
    assert_eq!(
        server("https://10.0.0.1:7000"),
        Some("10.0.0.1:7000".into())
    );
    assert_eq!(server("https://control/"), Some("control:6443".into()));
    assert_eq!(
        server("https://[fd00::1]:6443"),
        Some("[fd00::1]:6443".into())
    );
    for wrong in [
        "http://a",
        "https://",
        "https://a:0",
        "https://a:b",
        "https://a/b",
    ] {
        assert_eq!(server(wrong), None, "{wrong}");
    }
}

#[test]
fn the_token_is_not_in_a_debug_print() {
    let options: RunOptions =
        toml::from_str("token = \"abcdef.0123\"\nmax-pods = 7\nserver = \"h\"").expect("parses");
    let join = crate::join::JoinConfig::new(&options, "n1").expect("fits");
    for text in [format!("{options:?}"), format!("{join:?}")] {
        assert!(
            !text.contains("abcdef") && text.contains("[hidden]"),
            "{text}"
        );
    }
    assert_eq!(join.token.expect("token").reveal(), "abcdef.0123");
}

#[test]
fn the_size_and_number_of_log_files_can_be_set() {
    let policy = |args: &[&str]| {
        let args = ["x"].into_iter().chain(args.iter().copied());
        Cli::parse_from(args).options.log_policy()
    };
    assert_eq!(policy(&[]).expect("default"), LogPolicy::default());
    let set = policy(&[
        "--container-log-max-size=1Mi",
        "--container-log-max-files=3",
    ]);
    let expected = LogPolicy {
        file_bytes_max: 1 << 20,
        files_max: 3,
    };
    assert_eq!(set.expect("set"), expected);
    for (wrong, what) in [
        ("--container-log-max-size=lots", "is no quantity"),
        ("--container-log-max-size=1Ki", "is less than"),
        ("--container-log-max-size=-1Mi", "is less than"),
        ("--container-log-max-files=1", "is less than 2"),
    ] {
        let error = policy(&[wrong]).expect_err(wrong).to_string();
        assert!(error.contains(what), "{error}");
    }
}
