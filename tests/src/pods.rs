//! Pods of the stories.

use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};

use crate::world::World;

/// The toolbox image the testbed loads into every node.
pub const IMAGE: &str = slicewire_testbed::config::TOOLBOX_IMAGE;

/// A pod of the toolbox, serving HTTP on 8080 and answering with the client's address.
pub fn manifest(name: &str, namespace: &str, node: Option<&str>) -> String {
    let place = node.map_or(String::new(), |n| {
        format!(r#""nodeSelector": {{"kubernetes.io/hostname": "{n}"}},"#)
    });
    format!(
        r#"{{"apiVersion": "v1", "kind": "Pod",
        "metadata": {{"name": "{name}", "namespace": "{namespace}", "labels": {{"app": "{name}"}}}},
        "spec": {{{place} "terminationGracePeriodSeconds": 0,
        "securityContext": {{"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {{"type": "RuntimeDefault"}}}},
        "containers": [{{"name": "main", "image": "{IMAGE}", "imagePullPolicy": "Never",
        "securityContext": {{"allowPrivilegeEscalation": false, "capabilities": {{"drop": ["ALL"]}}}}}}]}}}}"#
    )
}

impl World {
    /// Makes a namespace; one that is there is fine.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn namespace(&self, cluster: &str, name: &str, labels: &str) -> Result<()> {
        let yaml = format!(
            r#"{{"apiVersion": "v1", "kind": "Namespace", "metadata": {{"name": "{name}", "labels": {{{labels}}}}}}}"#
        );
        self.apply(cluster, &yaml).map(drop)
    }

    /// Starts a pod and waits until it runs.
    ///
    /// # Errors
    /// It does not within a minute.
    pub fn pod(&self, cluster: &str, ns: &str, name: &str, node: Option<&str>) -> Result<()> {
        self.apply(cluster, &manifest(name, ns, node))?;
        self.k(cluster, &format!("-n {ns} wait pod/{name} --for=condition=Ready --timeout=60s"))?;
        Ok(())
    }

    /// A pod's addresses on a slice, from its network-status annotation, once it has them.
    ///
    /// # Errors
    /// It has none within half a minute.
    pub fn addresses(
        &self,
        cluster: &str,
        ns: &str,
        pod: &str,
        slice: &str,
    ) -> Result<Vec<IpAddr>> {
        World::wait(&format!("{cluster}/{ns}/{pod} gets its NIC on {slice}"), 30, || {
            self.addresses_now(cluster, ns, pod, slice)
        })
    }

    /// The same, as it is now.
    ///
    /// # Errors
    /// It has no NIC on that slice.
    pub fn addresses_now(
        &self,
        cluster: &str,
        ns: &str,
        pod: &str,
        slice: &str,
    ) -> Result<Vec<IpAddr>> {
        on_slice(&self.get(cluster, &format!("-n {ns} pod {pod}"))?, slice)
    }

    /// All addresses of many pods of a namespace, once each has them.
    ///
    /// # Errors
    /// One has none within a minute.
    pub fn addresses_of_all(
        &self,
        cluster: &str,
        ns: &str,
        pods: &[String],
        slice: &str,
    ) -> Result<Vec<IpAddr>> {
        World::wait(&format!("{} pods get their NICs on {slice}", pods.len()), 60, || {
            let there = self.get(cluster, &format!("-n {ns} pods"))?;
            let there: Vec<_> = there["items"].as_array().into_iter().flatten().collect();
            let of_one = |pod: &String| {
                let of_name = |o: &&&serde_json::Value| o["metadata"]["name"] == pod.as_str();
                let object = there.iter().find(of_name).with_context(|| format!("no pod {pod}"))?;
                on_slice(object, slice).with_context(|| pod.clone())
            };
            let all: Result<Vec<Vec<IpAddr>>> = pods.iter().map(of_one).collect();
            Ok(all?.concat())
        })
    }

    /// Pings from a pod until an answer comes; then once more, with no loss allowed.
    ///
    /// # Errors
    /// No answer within `seconds`, or one lost afterwards.
    pub fn reaches(&self, from: (&str, &str, &str), to: IpAddr, seconds: u64) -> Result<()> {
        let (cluster, ns, pod) = from;
        World::wait(&format!("{cluster}/{ns}/{pod} reaches {to}"), seconds, || {
            self.sh(cluster, ns, pod, &format!("ping -c 1 -W 1 {to}"))
        })?;
        let said = self.sh(cluster, ns, pod, &format!("ping -c 3 -i 0.2 -W 2 {to}"))?;
        ensure!(said.contains(" 0% packet loss"), "{cluster}/{ns}/{pod} to {to}: {said}");
        Ok(())
    }

    /// Whether an address answers a pod within two seconds.
    pub fn reachable(&self, from: (&str, &str, &str), to: IpAddr) -> bool {
        let (cluster, ns, pod) = from;
        self.sh(cluster, ns, pod, &format!("ping -c 2 -i 0.3 -W 1 {to}")).is_ok()
    }
}

/// The addresses on a slice that a pod's annotation tells.
fn on_slice(pod: &serde_json::Value, slice: &str) -> Result<Vec<IpAddr>> {
    let status = &pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"];
    let list: serde_json::Value =
        serde_json::from_str(status.as_str().context("no network-status annotation")?)?;
    let name = format!("slicewire.dev/{slice}");
    let entry = list.as_array().into_iter().flatten().find(|e| e["name"] == name.as_str());
    let Some(entry) = entry else { bail!("no NIC on {slice} in {list}") };
    let ips = entry["ips"].as_array().context("no addresses")?;
    ips.iter().map(|ip| Ok(ip.as_str().context("not text")?.parse()?)).collect()
}
