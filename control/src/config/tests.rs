// SPDX-License-Identifier: Apache-2.0
//! Where values come from, and which are refused.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    settings: Settings,
}

fn flags(flags: &[&str]) -> Settings {
    let all = std::iter::once("knarr-control").chain(flags.iter().copied());
    Program::try_parse_from(all).unwrap().settings
}

fn with_file(text: &str, more: &[&str]) -> Result<Settings, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.toml");
    std::fs::write(&path, text).unwrap();
    let mut settings = flags(more);
    settings.config = Some(path);
    settings.with_file()
}

#[test]
fn without_flags_the_defaults_are_those_of_kubernetes() {
    let config = flags(&["--listen", "10.0.0.5:6443"]).resolve(&[]).unwrap();
    assert_eq!(config.data_dir, PathBuf::from(DATA_DIR));
    assert_eq!(config.service_cidr.to_string(), "10.96.0.0/12");
    assert_eq!(config.cluster_cidr.to_string(), "10.244.0.0/16");
    assert_eq!(config.node_ports.range(), 30000..=32767);
    assert_eq!(config.node_monitor_grace_period, Duration::from_secs(40));
    assert_eq!(config.heartbeat, Duration::from_secs(10));
    assert_eq!(config.advertise_url, "https://10.0.0.5:6443");
    assert_eq!(
        config.kubernetes_service_address(),
        IpAddr::from([10, 96, 0, 1])
    );
}

#[test]
fn a_flag_goes_before_the_file() {
    let file =
        "data-dir = \"/file\"\nnode-port-range = \"31000-31999\"\nlisten = [\"10.0.0.1:7000\"]";
    let config = with_file(file, &["--data-dir", "/flag"])
        .unwrap()
        .resolve(&[])
        .unwrap();
    assert_eq!(config.data_dir, PathBuf::from("/flag"));
    assert_eq!(config.node_ports.to_string(), "31000-31999");
    assert_eq!(config.advertise_url, "https://10.0.0.1:7000");
}

#[test]
fn a_word_in_the_file_that_is_no_flag_is_refused_by_name() {
    let error = with_file("service-cdir = \"10.96.0.0/12\"", &[]).unwrap_err();
    let ConfigError::Parse { source, .. } = error else {
        panic!("{error}");
    };
    assert!(source.message().contains("service-cdir"), "{source}");
}

#[test]
fn ranges_that_overlap_are_refused() {
    let error = flags(&["--service-cidr", "10.244.64.0/18"])
        .resolve(&[])
        .unwrap_err();
    assert!(error.to_string().contains("overlap"), "{error}");
}

#[test]
fn a_wrong_range_is_refused_with_the_right_one() {
    let parsed = |range: &str| Program::try_parse_from(["knarr-control", "--service-cidr", range]);
    let error = parsed("10.96.1.0/12").err().unwrap().to_string();
    let hint = "10.96.1.0/12 has bits set behind its prefix: did you mean 10.96.0.0/12?";
    assert!(error.contains(hint), "{error}");
    let error = with_file("cluster-cidr = \"10.244.0.1/16\"", &[]).unwrap_err();
    let ConfigError::Parse { source, .. } = error else {
        panic!("{error}");
    };
    let hint = "did you mean 10.244.0.0/16?";
    assert!(source.message().contains(hint), "{source}");
    for wrong in ["10.96.0.0", "10.96.0.0/33", "x/8"] {
        assert!(parsed(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn ranges_that_cannot_be_served_are_refused() {
    for (range, reason) in [
        (
            ["--service-cidr", "fd00::/112"],
            "--service-cidr fd00::/112: IPv6 ranges are not supported by this version",
        ),
        (
            ["--cluster-cidr", "fd00::/48"],
            "--cluster-cidr fd00::/48: IPv6 ranges are not supported by this version",
        ),
        (
            ["--service-cidr", "0.0.0.0/0"],
            "--service-cidr 0.0.0.0/0 and --cluster-cidr 10.244.0.0/16 overlap",
        ),
        (
            ["--service-cidr", "10.96.0.0/31"],
            "--service-cidr 10.96.0.0/31 is too small: it needs four addresses or more",
        ),
        (
            ["--cluster-cidr", "10.244.0.0/25"],
            "--cluster-cidr 10.244.0.0/25 is too small: every node needs a /24 of it",
        ),
    ] {
        let error = flags(&range).resolve(&[]).unwrap_err();
        assert_eq!(error.to_string(), reason);
    }
}

#[test]
fn the_first_address_of_the_service_range_is_the_api_servers() {
    let config = flags(&["--service-cidr", "10.97.0.0/16"])
        .resolve(&[])
        .unwrap();
    assert_eq!(
        config.kubernetes_service_address(),
        IpAddr::from([10, 97, 0, 1])
    );
}

#[test]
fn times_are_read_as_go_writes_them() {
    let period = |text: &str| text.parse::<Period>().map(|p| p.0);
    assert_eq!(period("40s"), Ok(Duration::from_secs(40)));
    assert_eq!(period("1h30m"), Ok(Duration::from_secs(5400)));
    assert_eq!(period("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(period("0"), Ok(Duration::ZERO));
    for wrong in ["", "40", "s", "1d", "-1s", "1.5h"] {
        assert!(period(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn history_is_a_size_with_a_least_and_a_default() {
    let bytes = |more: &[&str]| flags(more).resolve(&[]).map(|config| config.history_bytes);
    assert_eq!(bytes(&[]).unwrap(), 256 << 20);
    assert_eq!(bytes(&["--history-bytes", "64Mi"]).unwrap(), 64 << 20);
    assert_eq!(bytes(&["--history-bytes", "2Gi"]).unwrap(), 2 << 30);
    let error = bytes(&["--history-bytes", "1Mi"]).unwrap_err().to_string();
    assert!(
        error.contains("--history-bytes must be at least"),
        "{error}"
    );
    for wrong in ["", "-1", "much", "9X"] {
        assert!(wrong.parse::<Size>().is_err(), "{wrong}");
    }
    let file = with_file("history-bytes = \"1Gi\"", &[]).unwrap();
    assert_eq!(file.resolve(&[]).unwrap().history_bytes, 1 << 30);
}

#[test]
fn a_heartbeat_that_could_not_keep_a_node_alive_is_refused() {
    let short = flags(&["--node-monitor-grace-period", "4s"]);
    assert_eq!(
        short.resolve(&[]).unwrap().heartbeat,
        Duration::from_secs(1)
    );
    let wrong = flags(&["--node-heartbeat-interval", "30s"]);
    assert!(wrong.resolve(&[]).is_err());
}

#[test]
fn handed_over_sockets_replace_the_default_listener() {
    let served = [SocketAddr::from(([127, 0, 0, 1], 16443))];
    let config = flags(&[]).resolve(&served).unwrap();
    assert!(config.listen.is_empty());
    assert_eq!(config.advertise_url, "https://127.0.0.1:16443");
}

#[test]
fn a_listener_without_a_port_is_refused() {
    let error = flags(&["--listen", "127.0.0.1:0"])
        .resolve(&[])
        .unwrap_err();
    assert!(error.to_string().contains("must be named"), "{error}");
}
