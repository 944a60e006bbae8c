//! Services by name, across clusters.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use slicewire_testbed::link::Cut;
use slicewire_testbed::moments::{outcomes, requests, uptime};
use slicewire_tests::world::{PROJECT_NS, WORKERS, World, not_yet};

const CLIENT: (&str, &str, &str) = ("east", "shop", "web");
const URL: &str = "http://api.shop.svc.clusterset.local/";
/// How long after its end an endpoint may still be tried, on a machine that is busy with everything
/// else at the same time.
const SWITCH: f64 = 3.0;

/// An export used by name from the other cluster, an endpoint killed while requests run, and the
/// export's end.
pub(crate) fn services(world: &mut World) -> Result<String> {
    for pod in ["api-a", "api-b"] {
        world.pod("west", "shop", pod, None)?;
        world.k("west", &format!("-n shop label pod {pod} tier=api"))?;
        world.addresses("west", "shop", pod, "blue")?;
    }
    let port = r#""ports": [{"name": "http", "port": 80, "targetPort": 8080}]"#;
    world.apply("west", &service("api", port))?;
    let first = exported(world)?;
    let seen = used(world)?;
    let switch = killed(world)?;
    let end = unexported(world)?;
    world.k("west", "-n shop delete pod api-b --now")?;
    world.k("west", "-n shop delete service api")?;
    Ok(format!(
        "used by name {:.0} ms after kubectl began to export it, the server saw {}; an endpoint killed: {switch}; \
         name gone {:.0} ms after kubectl began to delete the export",
        first * 1e3,
        seen.trim(),
        end * 1e3
    ))
}

/// Seconds from the beginning of the export to the first answer.
fn exported(world: &World) -> Result<f64> {
    let line = format!("until curl -s -m 1 -o /dev/null {URL}; do sleep 0.02; done");
    let used = Waiting::start(world, &line)?;
    std::thread::sleep(Duration::from_secs(1));
    let exported = uptime()?;
    world.apply("west", EXPORT)?;
    Ok(used.ended()? - exported)
}

/// What the server saw of its client: the slice address.
fn used(world: &World) -> Result<String> {
    let own = world.addresses("east", "shop", "web", "blue")?;
    let seen = curl(world, URL)?;
    let is_own = own.iter().any(|a| seen.contains(&a.to_string()));
    ensure!(is_own, "the server saw {seen}, not {own:?}");
    for name in ["api.shop.svc.slice.local", "api.shop.svc.blue.slice.local"] {
        curl(world, &format!("http://{name}/"))?;
    }
    for cluster in WORKERS {
        let kubeconfig = world.kubeconfig(cluster);
        let (code, said) = world.slicectl_ended(&["dns", "--kubeconfig", &kubeconfig])?;
        ensure!(code == Some(0) && said.contains("CoreDNS: asks the nodes"), "{cluster}: {said}");
    }
    conditions(world, "api", "Ready", "True", "Exported")?;
    imported(world)?;
    reversed(world)?;
    Ok(seen)
}

/// Addresses of the slice have names, asked as everybody asks; the cluster's own addresses keep theirs.
fn reversed(world: &World) -> Result<()> {
    let (cluster, namespace, pod) = CLIENT;
    let import = world.get(cluster, "-n shop serviceimport api")?;
    let ip = import["spec"]["ips"][0].as_str().context("no address")?;
    let named = |address: &str, name: &str| {
        let said = world.sh(cluster, namespace, pod, &format!("nslookup {address}"))?;
        if said.contains(name) { Ok(()) } else { not_yet(said) }
    };
    // A kubelet brings a changed Corefile to CoreDNS within a minute and a half.
    World::wait("the service's address has its name", 120, || {
        named(ip, "api.shop.svc.clusterset.local")
    })?;
    named("$KUBERNETES_SERVICE_HOST", "kubernetes.default.svc.cluster.local")
}

/// Requests go on while one of two endpoints ends; how many failed.
fn killed(world: &World) -> Result<String> {
    let requests = Requests::start(world, 14)?;
    std::thread::sleep(Duration::from_secs(3));
    let killed = uptime()?;
    world.k("west", "-n shop delete pod api-a --now")?;
    let results = requests.results()?;
    let failed: Vec<f64> = results.iter().filter(|(_, ok)| !ok).map(|(at, _)| *at).collect();
    let after = results.iter().filter(|(at, _)| *at > killed + SWITCH).count();
    ensure!(after > 20, "there were {after} requests after the switch: {results:?}");
    ensure!(
        failed.iter().all(|at| (killed..killed + SWITCH).contains(at)),
        "requests failed at {failed:?}; the endpoint ended at {killed}"
    );
    let last = failed.iter().copied().fold(killed, f64::max) - killed;
    Ok(format!(
        "{} of {} requests failed, the last {:.0} ms after kubectl began",
        failed.len(),
        results.len(),
        last * 1e3
    ))
}

/// Seconds from the beginning of the export's deletion until there is no such name.
fn unexported(world: &World) -> Result<f64> {
    let try_once = format!("curl -s -m 1 -o /dev/null {URL}; [ $? = 6 ] && break");
    let gone = Waiting::start(world, &format!("while true; do {try_once}; sleep 0.02; done"))?;
    std::thread::sleep(Duration::from_secs(1));
    let deleted = uptime()?;
    world.k("west", "-n shop delete serviceexport api --wait=false")?;
    let end = gone.ended()? - deleted;
    ensure!(end < 5.0, "the name was still there after {end:.1} s");
    for cluster in WORKERS {
        World::wait("the import is gone", 10, || {
            let left =
                world.k(cluster, "-n shop get serviceimport api --ignore-not-found -o name")?;
            if left.trim().is_empty() { Ok(()) } else { not_yet(left) }
        })?;
    }
    Ok(end)
}

/// A cluster that nobody reaches any more, or that is being emptied, is in no answer, and comes back
/// into them.
pub(crate) fn cut_off(world: &mut World) -> Result<String> {
    let mut addresses = Vec::new();
    for cluster in WORKERS {
        world.pod(cluster, "shop", "mesh", None)?;
        world.k(cluster, "-n shop label pod mesh tier=mesh")?;
        addresses.extend(world.addresses(cluster, "shop", "mesh", "blue")?.into_iter().take(1));
        world
            .apply(cluster, &service("mesh", r#""clusterIP": "None", "ports": [{"port": 80}]"#))?;
        world.apply(cluster, &EXPORT.replace("\"api\"", "\"mesh\""))?;
    }
    let answers = |names: &str| -> Result<()> {
        let (cluster, namespace, pod) = CLIENT;
        let line = "nslookup -type=a mesh.shop.svc.clusterset.local";
        let said = world.sh(cluster, namespace, pod, line)?;
        let is_told = |a: &std::net::IpAddr| said.lines().any(|l| l.ends_with(&format!(" {a}")));
        let told = match (is_told(&addresses[0]), is_told(&addresses[1])) {
            (true, true) => "both",
            (true, false) => "east",
            (false, true) => "west",
            (false, false) => "neither",
        };
        if told == names { Ok(()) } else { not_yet(said) }
    };
    World::wait("both clusters' pods are answered", 20, || answers("both"))?;
    let nodes = ["west-1", "west-2"];
    let cut = Instant::now();
    let gone = nodes.iter().try_for_each(|node| world.testbed.cut(node, Cut::Silent));
    let gone = gone.and_then(|()| World::wait("west is in no answer", 30, || answers("east")));
    let gone = gone.map(|()| cut.elapsed().as_secs_f64());
    let mended = Instant::now();
    nodes.iter().try_for_each(|node| world.testbed.restore(node))?;
    let gone = gone?;
    World::wait("west is in the answers again", 30, || answers("both"))?;
    let back = mended.elapsed().as_secs_f64();
    let empty = |clusters: Value| -> Result<String> {
        let patch = json!({"spec": {"services": {"clusters": clusters}}}).to_string();
        let words =
            ["-n", PROJECT_NS, "patch", "sliceconfig", "blue", "--type=merge", "-p", &patch];
        world.testbed.kubectl("hub", &words)
    };
    let strange = empty(json!([{"name": "north", "weight": 0}]));
    let refused = strange.err().context("a weight of an unknown cluster is taken")?;
    let refused = format!("{refused:#}");
    ensure!(refused.contains("spec.services.clusters[0].name"), "{refused}");
    empty(json!([{"name": "west", "weight": 0}]))?;
    let emptied = World::wait("west is emptied", 20, || answers("east"));
    empty(Value::Null)?;
    emptied?;
    World::wait("west takes part again", 20, || answers("both"))?;
    weigh(world, "west", "mesh", "=0")?;
    World::wait("west's export counts 0", 20, || answers("east"))?;
    weigh(world, "west", "mesh", "-")?;
    World::wait("west's export counts again", 20, || answers("both"))?;
    for cluster in WORKERS {
        world.k(cluster, "-n shop delete serviceexport,service,pod mesh --now")?;
    }
    Ok(format!(
        "cut off: in no answer after {gone:.1} s; not any more: back after {back:.1} s; with weight 0, \
         the slice's or the export's, in none"
    ))
}

/// An export says how much its cluster's endpoints count: connections follow, and what is no weight is
/// told in its conditions and takes nothing away.
pub(crate) fn weights(world: &mut World) -> Result<String> {
    for cluster in WORKERS {
        world.pod(cluster, "shop", "heavy", None)?;
        world.k(cluster, "-n shop label pod heavy tier=heavy")?;
        let line = format!("echo {cluster} >/tmp/where; httpd -p 9090 -h /tmp");
        world.sh(cluster, "shop", "heavy", &line)?;
        world
            .apply(cluster, &service("heavy", r#""ports": [{"port": 80, "targetPort": 9090}]"#))?;
        world.apply(cluster, &EXPORT.replace("\"api\"", "\"heavy\""))?;
    }
    // The client is in the east, whose endpoint gets everything as long as it counts at all.
    answered(world, "east")?;
    let begun = Instant::now();
    weigh(world, "east", "heavy", "=0")?;
    answered(world, "west")?;
    let led = begun.elapsed().as_secs_f64();
    let said = world.slicectl(&["services", "--kubeconfig", &world.kubeconfig("east")])?;
    ensure!(said.contains("east 1/1 (weight 0)"), "{said}");
    weigh(world, "west", "heavy", "=1001")?;
    conditions(world, "heavy", "Valid", "True", "WeightRange")?;
    answered(world, "west")?;
    weigh(world, "west", "heavy", "-")?;
    conditions(world, "heavy", "Valid", "True", "Valid")?;
    weigh(world, "east", "heavy", "-")?;
    answered(world, "east")?;
    for cluster in WORKERS {
        world.k(cluster, "-n shop delete serviceexport,service,pod heavy --now")?;
    }
    Ok(format!(
        "clients were led elsewhere {led:.1} s after kubectl began to give their cluster weight 0"
    ))
}

/// Changes what an export says of its weight, as `=5` or, to take it away, `-`.
fn weigh(world: &World, cluster: &str, export: &str, weight: &str) -> Result<()> {
    let line =
        format!("-n shop annotate --overwrite serviceexport {export} slicewire.dev/weight{weight}");
    world.k(cluster, &line).map(drop)
}

/// Waits until one cluster alone answers.
fn answered(world: &World, by: &str) -> Result<()> {
    let (cluster, namespace, pod) = CLIENT;
    let line = "for i in 1 2 3 4 5 6 7 8 9 10; do \
                curl -s -m 1 http://heavy.shop.svc.clusterset.local/where || echo nobody; \
                done | sort -u";
    World::wait(&format!("{by} alone answers"), 20, || {
        let said = world.sh(cluster, namespace, pod, line)?;
        if said.trim() == by { Ok(()) } else { not_yet(said) }
    })
}

/// What is wrong with an export is said in it.
pub(crate) fn export_refusals(world: &mut World) -> Result<String> {
    for name in ["nothing", "outside", "lonely"] {
        let export = EXPORT.replace("\"api\"", &format!("{name:?}"));
        world.apply("west", &export)?;
    }
    world.apply("west", &service("lonely", r#""ports": [{"port": 80}]"#))?;
    let outside = r#"{"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "outside", "namespace": "shop"},
        "spec": {"type": "ExternalName", "externalName": "example.org"}}"#;
    world.apply("west", outside)?;
    conditions(world, "nothing", "Valid", "False", "NoService")?;
    conditions(world, "outside", "Valid", "False", "InvalidServiceType")?;
    conditions(world, "lonely", "Ready", "False", "NoEndpoints")?;
    world.k("west", "-n shop delete serviceexport nothing outside lonely")?;
    world.k("west", "-n shop delete service outside lonely")?;
    Ok("no Service, ExternalName and no endpoints are told in the export's conditions".to_owned())
}

pub(crate) const EXPORT: &str = r#"{"apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
    "metadata": {"name": "api", "namespace": "shop"}}"#;

pub(crate) fn service(name: &str, ports: &str) -> String {
    format!(
        r#"{{"apiVersion": "v1", "kind": "Service", "metadata": {{"name": "{name}", "namespace": "shop"}},
        "spec": {{"selector": {{"tier": "{name}"}}, {ports}}}}}"#
    )
}

fn curl(world: &World, url: &str) -> Result<String> {
    let (cluster, namespace, pod) = CLIENT;
    world
        .sh(cluster, namespace, pod, &format!("curl -s -m 5 {url}"))
        .with_context(|| url.to_owned())
}

/// Waits until the export's condition says so.
fn conditions(world: &World, export: &str, kind: &str, status: &str, reason: &str) -> Result<()> {
    World::wait(&format!("{export} is {kind}={status}: {reason}"), 15, || {
        let object = world.get("west", &format!("-n shop serviceexport {export}"))?;
        let all = object["status"]["conditions"].as_array().context("no conditions")?;
        let says = |c: &Value| c["type"] == kind && c["status"] == status && c["reason"] == reason;
        if all.iter().any(says) { Ok(()) } else { not_yet(&object["status"]) }
    })
}

/// The standard's objects are there, with slice addresses.
fn imported(world: &World) -> Result<()> {
    let import = world.get("east", "-n shop serviceimport api")?;
    let ip = import["spec"]["ips"][0].as_str().context("no address")?;
    ensure!(ip.starts_with("10.77."), "{ip} is not of the slice");
    let other = world.get("west", "-n shop serviceimport api")?;
    ensure!(other["spec"]["ips"] == import["spec"]["ips"], "addresses differ: {other}");
    let label = "multicluster.kubernetes.io/service-name=api";
    let slices = world.get("east", &format!("-n shop endpointslices -l {label}"))?;
    let first = &slices["items"][0];
    ensure!(
        first["metadata"]["labels"]["multicluster.kubernetes.io/source-cluster"] == "west",
        "{first}"
    );
    Ok(())
}

fn start(world: &World, line: &str) -> Result<Child> {
    let (cluster, namespace, pod) = CLIENT;
    let mut command = world.testbed.kubectl_command(cluster);
    command.args(["-n", namespace, "exec", pod, "--", "timeout", "60", "sh", "-c", line]);
    command.stdout(Stdio::piped()).spawn().context("cannot start kubectl")
}

/// A line that ends when something has come.
struct Waiting(Child);

impl Waiting {
    fn start(world: &World, line: &str) -> Result<Self> {
        Ok(Self(start(world, &format!("{line}; read now rest < /proc/uptime; echo $now"))?))
    }

    /// When it had come.
    fn ended(self) -> Result<f64> {
        let said = self.0.wait_with_output()?;
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        text.trim().parse().with_context(|| format!("it did not come within a minute: {text}"))
    }
}

/// Requests, one after the other.
struct Requests(Child);

impl Requests {
    fn start(world: &World, seconds: u32) -> Result<Self> {
        Ok(Self(start(world, &requests(URL, seconds))?))
    }

    /// When each began, and whether it was answered.
    fn results(self) -> Result<Vec<(f64, bool)>> {
        let said = self.0.wait_with_output()?;
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        Ok(outcomes(&text))
    }
}
