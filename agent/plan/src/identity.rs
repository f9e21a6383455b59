// SPDX-License-Identifier: Apache-2.0
//! What a pod is called and what it finds in /etc: hostname, hosts file, resolver configuration.
//!
//! Not here: writing the files (the agent's `apply`). Rules: kubelet v1.37 `GeneratePodHostNameAndDomain`,
//! `ensureHostsFile`, `dns.Configurer`.

use k8s_openapi::api::core::v1::Pod;

/// A hostname is cut to this many bytes (Linux' limit is 64; Kubernetes cuts at 63).
pub const HOSTNAME_LEN_MAX: usize = 63;

/// The hostname of the pod: the node's on the host network, otherwise `hostnameOverride`, `hostname` or
/// the pod's name.
pub fn hostname(pod: &Pod, node_hostname: &str) -> String {
    let spec = pod.spec.as_ref();
    let text = |s: &Option<String>| s.clone().filter(|s| !s.is_empty());
    if let Some(name) = spec.and_then(|s| text(&s.hostname_override)) {
        return name;
    }
    if spec.is_some_and(crate::spec::host_network) {
        return node_hostname.to_owned();
    }
    let name = spec
        .and_then(|s| text(&s.hostname))
        .or_else(|| pod.metadata.name.clone())
        .unwrap_or_default();
    let mut cut = name.as_str();
    if cut.len() > HOSTNAME_LEN_MAX {
        cut = cut.get(..HOSTNAME_LEN_MAX).unwrap_or(cut);
    }
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// `HOST.SUBDOMAIN.NAMESPACE.svc.DOMAIN` where the pod asks for a subdomain.
pub fn fqdn(pod: &Pod, hostname: &str, cluster_domain: &str) -> Option<String> {
    let subdomain = pod.spec.as_ref()?.subdomain.as_deref()?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    (!subdomain.is_empty())
        .then(|| format!("{hostname}.{subdomain}.{namespace}.svc.{cluster_domain}"))
}

/// The contents of /etc/hosts. `node_hosts` is the node's own file, used on the host network.
pub fn hosts_file(
    pod: &Pod,
    hostname: &str,
    cluster_domain: &str,
    pod_ips: &[String],
    node_hosts: &str,
) -> String {
    let spec = pod.spec.as_ref();
    let mut out = String::new();
    if spec.is_some_and(crate::spec::host_network) {
        out.push_str("# Kubernetes-managed hosts file (host network).\n");
        out.push_str(node_hosts);
    } else {
        out.push_str("# Kubernetes-managed hosts file.\n");
        out.push_str("127.0.0.1\tlocalhost\n");
        out.push_str("::1\tlocalhost ip6-localhost ip6-loopback\n");
        out.push_str("fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n");
        out.push_str("fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n");
        let names = match fqdn(pod, hostname, cluster_domain) {
            Some(fqdn) => format!("{fqdn}\t{hostname}"),
            None => hostname.to_owned(),
        };
        for ip in pod_ips {
            out.push_str(&format!("{ip}\t{names}\n"));
        }
    }
    let aliases = spec.and_then(|s| s.host_aliases.as_ref());
    if let Some(aliases) = aliases.filter(|a| !a.is_empty()) {
        out.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.iter().flatten().cloned();
            out.push_str(&format!(
                "{}\t{}\n",
                alias.ip,
                names.collect::<Vec<_>>().join("\t")
            ));
        }
    }
    out
}

/// The contents of /etc/resolv.conf. There is no cluster DNS server, so `ClusterFirst` falls back to the
/// node's file, as Kubernetes does where the kubelet has no clusterDNS; `None` starts empty; `dnsConfig`
/// is added to either.
pub fn resolv_conf(pod: &Pod, node_resolv_conf: &str) -> String {
    let spec = pod.spec.as_ref();
    let mut nameservers = Vec::new();
    let mut searches = Vec::new();
    let mut options = Vec::new();
    if spec.and_then(|s| s.dns_policy.as_deref()) != Some("None") {
        for line in node_resolv_conf.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => nameservers.extend(words.map(str::to_owned).take(1)),
                Some("search" | "domain") => searches = words.map(str::to_owned).collect(),
                Some("options") => options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
    }
    if let Some(config) = spec.and_then(|s| s.dns_config.as_ref()) {
        nameservers.extend(config.nameservers.iter().flatten().cloned());
        searches.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            let prefix = format!("{name}:");
            options.retain(|o| o != name && !o.starts_with(&prefix));
            options.push(match &option.value {
                Some(value) => format!("{prefix}{value}"),
                None => name.clone(),
            });
        }
    }
    let mut out = String::new();
    for server in nameservers {
        out.push_str(&format!("nameserver {server}\n"));
    }
    if !searches.is_empty() {
        out.push_str(&format!("search {}\n", searches.join(" ")));
    }
    if !options.is_empty() {
        out.push_str(&format!("options {}\n", options.join(" ")));
    }
    out
}

#[cfg(test)]
mod tests;
