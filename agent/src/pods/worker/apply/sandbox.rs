// SPDX-License-Identifier: Apache-2.0
//! What concerns a pod's sandbox: making and wiring it, its volumes, taking it away.
//!
//! Not here: containers (`containers`). Called by `apply`; volumes also by `worker`.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use knarr_agent_plan::pod::Wanted;
use knarr_agent_plan::reason::SandboxReason;
use knarr_agent_plan::spec::host_network;
use knarr_agent_plan::support;
use knarr_agent_plan::volumes::{VolumePlan, volume_plans};
use knarr_api::feed::PodGone;
use knarr_base::blocking;

use super::{ApplyError, Worker, in_turn};
use crate::edges::{PodLink, Sandbox};
use crate::pods::observe::Wiring;
use crate::pods::{Context, ipam, spec};
use crate::volumes;

impl Worker {
    pub(super) async fn create_sandbox(&mut self, attempt: u32) -> Result<(), ApplyError> {
        let context = self.context.clone();
        let permit = context.starts.acquire().await;
        let uses_host_network = self.pod.spec.as_ref().is_some_and(host_network);
        let address = if uses_host_network {
            None
        } else {
            Some(self.allocate().await?)
        };
        self.make_volumes().await?;
        let ips = self.pod_ips();
        let (of, uid, pod) = (context.clone(), self.uid.clone(), self.pod.clone());
        // It reads files of the node.
        let spec = blocking::run(move || spec::sandbox(&of, &uid, &pod, attempt, &ips)).await;
        let sandbox = match context.edges.sandboxes.create(spec).await {
            Ok(sandbox) => sandbox,
            Err(error) => {
                let text = format!(
                    "Failed to create pod sandbox: {}",
                    knarr_base::chain(&error)
                );
                return Err(self.refuse_sandbox(SandboxReason::FailedCreatePodSandBox, &text));
            }
        };
        // Known before anything else can fail: a handle that is lost could be neither used nor destroyed.
        self.record.sandboxes = attempt + 1;
        self.set_sandbox(Some(sandbox.clone()), Wiring::Impossible);
        if let Some(ip) = address
            && let Err(error) = self.wire(&*sandbox, ip).await
        {
            // The next round destroys a sandbox without a network, however often that takes.
            let text = format!(
                "Failed to create pod sandbox: setting up its network: {}",
                knarr_base::chain(&error)
            );
            return Err(self.refuse_sandbox(SandboxReason::FailedCreatePodSandBox, &text));
        }
        drop(permit);
        self.record.sandbox_refusal = None;
        self.set_sandbox(Some(sandbox), Wiring::Done);
        Ok(())
    }

    async fn allocate(&mut self) -> Result<Ipv4Addr, ApplyError> {
        let welcome = self.context.desired.welcome();
        let range = welcome.and_then(|w| w.pod_cidrs.iter().find_map(|cidr| ipam::pod_range(cidr)));
        let allocated = match range {
            Some(range) => {
                let (context, uid) = (self.context.clone(), self.uid.clone());
                blocking::run(move || context.ipam.allocate(&uid, range)).await
            }
            None => Err(ipam::IpamError::NoRange),
        };
        allocated.map_err(|error| {
            let text = format!(
                "Failed to create pod sandbox: {}",
                knarr_base::chain(&error)
            );
            self.refuse_sandbox(SandboxReason::FailedCreatePodSandBox, &text)
        })
    }

    /// The sandbox may have been cut off before it had its network; doing it again is harmless. After an error the next
    /// round tries again: a pod that runs is not given up for that. Only without an address there is nothing to try.
    pub(super) async fn wire_again(&mut self) -> Result<(), ApplyError> {
        let sandbox = self.sandbox.clone().ok_or(ApplyError::NoSandbox)?;
        self.wiring = match self.context.ipam.lookup(&self.uid) {
            Some(ip) => {
                self.wire(&*sandbox, ip).await?;
                Some(Wiring::Done)
            }
            None => Some(Wiring::Impossible),
        };
        Ok(())
    }

    /// Gives a sandbox its interface, and the Service programs the pod's network namespace.
    async fn wire(&self, sandbox: &dyn Sandbox, ip: Ipv4Addr) -> Result<(), ApplyError> {
        let netns = sandbox.netns()?;
        let link = PodLink {
            host_ifname: PodLink::host_ifname(&self.uid),
            pod_ip: ip,
        };
        let edges = &self.context.edges;
        edges.network.add(netns.as_fd(), &link).await?;
        edges.datapath.set_pod(netns, link.clone()).await?;
        let name = self.name();
        let named = edges.network.name(&link.host_ifname, &name);
        if let Err(error) = named.await {
            tracing::debug!(pod = self.name(), "naming its link: {error}");
        }
        Ok(())
    }

    /// Makes the pod's volumes, or brings their files up to date.
    pub(in crate::pods) async fn make_volumes(&mut self) -> Result<(), ApplyError> {
        let around = spec::surroundings(&self.context, &self.pod, self.pod_ips());
        if let Some(pod_spec) = &self.pod.spec
            && let Some(first) = pod_spec.containers.first()
            && support::check(pod_spec, first, self.context.machine.se_linux).is_err()
        {
            // The container says so itself; the sandbox can be made without what cannot be made.
            self.volumes = Some(Vec::new());
            self.volumes_due = false;
            return Ok(());
        }
        let plans = match volume_plans(&self.pod, &around) {
            Ok(plans) => plans,
            Err(error) => {
                return Err(self.refuse_sandbox(SandboxReason::FailedMount, &error.to_string()));
            }
        };
        let pod_sc = self
            .pod
            .spec
            .as_ref()
            .and_then(|s| s.security_context.as_ref());
        let fs_group = pod_sc
            .and_then(|sc| sc.fs_group)
            .and_then(|g| u32::try_from(g).ok());
        let (context, uid, wanted) = (self.context.clone(), self.uid.clone(), plans.clone());
        match blocking::run(move || make_all(&context, &uid, &wanted, fs_group)).await {
            Ok(()) => {
                self.volumes = Some(plans);
                self.volumes_due = false;
                Ok(())
            }
            Err(error) => Err(self.refuse_sandbox(SandboxReason::FailedMount, &error.to_string())),
        }
    }

    pub(super) async fn destroy_sandbox(&mut self) -> Result<(), ApplyError> {
        let context = self.context.clone();
        let link = PodLink::host_ifname(&self.uid);
        context.edges.network.remove(&link).await?;
        match self.sandbox.clone() {
            Some(sandbox) => in_turn(&context.ends, sandbox.destroy()).await?,
            // What a failed start or another version of this program left, if anything.
            None => context.edges.sandboxes.destroy(&self.uid).await?,
        }
        self.set_sandbox(None, Wiring::Done);
        if let Some(ip) = self.context.ipam.lookup(&self.uid) {
            // Before it is given back: afterwards it may be another pod's.
            self.context.edges.datapath.forget_pod(ip).await?;
        }
        let (context, uid) = (self.context.clone(), self.uid.clone());
        blocking::run(move || context.ipam.free(&uid)).await?;
        Ok(())
    }

    pub(super) async fn release(&mut self) -> Result<(), ApplyError> {
        self.destroy_sandbox().await?;
        self.context.edges.sandboxes.remove_pod(&self.uid).await?;
        let (context, uid) = (self.context.clone(), self.uid.clone());
        blocking::run(move || context.records.remove(&uid)).await?;
        if self.wanted == Wanted::Yes {
            self.context.outbox.gone(PodGone {
                namespace: self.pod.metadata.namespace.clone().unwrap_or_default(),
                name: self.pod.metadata.name.clone().unwrap_or_default(),
                uid: self.uid.clone(),
            });
        }
        tracing::info!(pod = self.name(), uid = self.uid, "the pod is gone");
        Ok(())
    }
}

fn make_all(
    context: &Context,
    uid: &str,
    plans: &[VolumePlan],
    fs_group: Option<u32>,
) -> Result<(), volumes::MountError> {
    for plan in plans {
        let edge = &context.edges.volumes;
        let path = volumes::path_of(plan, |plugin, name| edge.dir(uid, plugin, name));
        edge.make(plan, &path, fs_group)?;
    }
    Ok(())
}
