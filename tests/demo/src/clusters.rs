//! From nothing to three clusters with Slicewire and an application in them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use slicewire_testbed::Testbed;
use slicewire_testbed::config::TOOLBOX_IMAGE;
use slicewire_testbed::process::{describe, run, wait_for};

use crate::TESTBED;
use crate::show::{Evidence, Show, print};

/// The clusters whose pods are on the slice.
pub(crate) const WORKERS: [&str; 2] = ["east", "west"];
/// The project of the examples.
pub(crate) const PROJECT: &str = "demo";
/// The slice of the examples.
pub(crate) const SLICE: &str = "blue";
/// The application's namespace.
pub(crate) const NAMESPACE: &str = "shop";

/// The application, before it knows of any slice.
const APPLICATION: &str = include_str!("app.yaml");
/// Images of the components, as `images` makes them.
const IMAGES: &str = "target/images";
/// How long pods may take to start.
const START: &str = "120s";

/// Running clusters, ready for the story.
pub(crate) struct Demo {
    /// The clusters.
    pub(crate) testbed: Testbed,
    /// The repository.
    pub(crate) root: PathBuf,
}

impl Demo {
    /// Runs `slicectl`, showing what it says; its standard output.
    pub(crate) fn slicectl(&self, evidence: &Evidence, arguments: &[&str]) -> Result<String> {
        let output = Command::new(self.root.join("target/release/slicectl"))
            .args(arguments)
            .output()
            .context("cannot run slicectl")?;
        evidence.quote(&String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            // What follows may be a secret, or long.
            let what = arguments.first().copied().unwrap_or_default();
            bail!("slicectl {what} ended with {}; see above", output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A cluster's kubeconfig.
    pub(crate) fn kubeconfig(&self, cluster: &str) -> String {
        self.testbed.kubeconfig(cluster).display().to_string()
    }

    /// An example of `deploy/examples`.
    pub(crate) fn example(&self, name: &str) -> Result<String> {
        let path = self.root.join("deploy/examples").join(name);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }
}

/// Builds, brings up, installs and joins, as far as that has not been done before.
///
/// # Errors
/// What a step failed with; it has been shown.
pub(crate) fn prepare(show: &mut Show) -> Result<Demo> {
    let root = root()?;
    show.step("build slicectl, the testbed and the images", |_| {
        build(&root).map(|()| ((), "built".to_owned()))
    })?;
    let testbed = show
        .step("bring up the clusters hub, east and west", |evidence| bring_up(&root, evidence))?;
    let demo = Demo { testbed, root };
    show.step("load the images into the nodes", |_| load(&demo))?;
    show.step("start an application in both clusters, before there is any slice", |evidence| {
        forget_last_time(&demo)?;
        start_application(&demo, evidence)
    })?;
    show.step("slicectl install hub", |evidence| {
        let kubeconfig = demo.kubeconfig("hub");
        let arguments =
            ["install", "hub", "--kubeconfig", &kubeconfig, "--image-pull-policy", "Never"];
        demo.slicectl(evidence, &arguments)?;
        Ok(((), "the hub runs".to_owned()))
    })?;
    show.step("kubectl apply the example project and clusters", |_| declare(&demo))?;
    for cluster in WORKERS {
        show.step(&format!("slicectl token create, slicectl join: {cluster}"), |evidence| {
            join(&demo, evidence, cluster)
        })?;
    }
    Ok(demo)
}

fn root() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().context("the repository has been moved; build the demo again")
}

fn build(root: &Path) -> Result<()> {
    let cargo = |arguments: &[&str]| -> Result<()> {
        let status = Command::new("cargo").args(arguments).current_dir(root).status()?;
        if !status.success() {
            bail!("cargo {} failed; see above", arguments.join(" "));
        }
        Ok(())
    };
    let tools = ["slicewire-slicectl", "slicewire-testbed", "slicewire-images"];
    let packages: Vec<&str> = tools.iter().flat_map(|tool| ["--package", tool]).collect();
    cargo(&[&["build", "--release", "--quiet"], packages.as_slice()].concat())?;
    let status = Command::new(root.join("target/release/images")).current_dir(root).status()?;
    if !status.success() {
        bail!("the images cannot be built; see above");
    }
    Ok(())
}

/// The hub gets a node, too, for its controller to run on.
fn bring_up(root: &Path, evidence: &Evidence) -> Result<(Testbed, String)> {
    let mut testbed = Command::new(root.join("target/release/testbed"));
    testbed.args(["--name", TESTBED, "up"]);
    testbed.args(["--cluster", "hub:1", "--cluster", "east:2", "--cluster", "west:2"]);
    let status = testbed.status()?;
    if !status.success() {
        bail!("{} failed; see above", describe(&testbed));
    }
    let testbed = Testbed::open(TESTBED)?;
    for cluster in WORKERS {
        let query =
            "-ojsonpath={range .items[*]}{.metadata.name} pods {.spec.podCIDR}{\"\\n\"}{end}";
        evidence.quote(&testbed.kubectl(cluster, &["get", "nodes", query])?);
    }
    Ok((testbed, "three real Kubernetes clusters; east and west use the same ranges".to_owned()))
}

fn load(demo: &Demo) -> Result<((), String)> {
    let mut taken = 0;
    let mut archives: Vec<PathBuf> = std::fs::read_dir(demo.root.join(IMAGES))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "tar"))
        .collect();
    archives.sort();
    for archive in &archives {
        taken += demo.testbed.load(archive, &[])?;
    }
    if taken > 0 {
        restart(demo)?;
    }
    Ok(((), format!("{} images, {taken} imports", archives.len())))
}

/// Lets components of an earlier run take new images, as those have the same names.
fn restart(demo: &Demo) -> Result<()> {
    for cluster in ["hub", "east", "west"] {
        let arguments = ["get", "deploy,daemonset", "-n", "slicewire-system", "-oname"];
        let workloads = demo.testbed.kubectl(cluster, &arguments).unwrap_or_default();
        for workload in workloads.lines() {
            demo.testbed
                .kubectl(cluster, &["rollout", "restart", "-n", "slicewire-system", workload])?;
        }
    }
    Ok(())
}

/// Removes the slice and the application of an earlier run.
fn forget_last_time(demo: &Demo) -> Result<()> {
    let kubectl = |cluster: &str, arguments: &[&str]| demo.testbed.kubectl(cluster, arguments);
    // Where nothing was installed yet, the hub does not know the kind.
    if kubectl("hub", &["get", "crd", "sliceconfigs.slicewire.dev"]).is_ok() {
        let namespace = format!("slicewire-{PROJECT}");
        let slice = ["delete", "sliceconfig", SLICE, "-n", &namespace, "--ignore-not-found"];
        kubectl("hub", &[slice.as_slice(), &["--timeout=90s"]].concat())?;
    }
    for cluster in WORKERS {
        let gone =
            ["delete", "namespace", NAMESPACE, "outside", "--ignore-not-found", "--timeout=60s"];
        kubectl(cluster, &gone)?;
    }
    Ok(())
}

fn start_application(demo: &Demo, evidence: &Evidence) -> Result<((), String)> {
    let application = APPLICATION.replace("IMAGE", TOOLBOX_IMAGE);
    for cluster in WORKERS {
        demo.testbed.apply(cluster, &application)?;
    }
    for cluster in WORKERS {
        for (namespace, name) in [
            (NAMESPACE, "deploy/client"),
            (NAMESPACE, "deploy/server"),
            ("outside", "deploy/stranger"),
        ] {
            let timeout = format!("--timeout={START}");
            demo.testbed
                .kubectl(cluster, &["rollout", "status", "-n", namespace, name, &timeout])?;
        }
        let columns = "-ocustom-columns=POD:.metadata.name,NODE:.spec.nodeName,IP:.status.podIP";
        let pods = demo.testbed.kubectl(cluster, &["get", "pods", "-n", NAMESPACE, columns])?;
        evidence.quote(&pods);
    }
    Ok(((), "clients, servers and strangers run".to_owned()))
}

fn declare(demo: &Demo) -> Result<((), String)> {
    demo.testbed.apply("hub", &demo.example("project.yaml")?)?;
    let namespace = format!("slicewire-{PROJECT}");
    wait_for(&format!("namespace {namespace}"), Duration::from_secs(30), || {
        demo.testbed.kubectl("hub", &["get", "namespace", &namespace]).is_ok()
    })?;
    demo.testbed.apply("hub", &demo.example("clusters.yaml")?)?;
    Ok(((), format!("project {PROJECT} with east and west")))
}

/// A token on the hub, one string in the cluster: nothing else of the hub's is needed there.
fn join(demo: &Demo, evidence: &Evidence, cluster: &str) -> Result<((), String)> {
    let (hub, worker) = (demo.kubeconfig("hub"), demo.kubeconfig(cluster));
    let create = ["token", "create", "--kubeconfig", &hub, "--project", PROJECT];
    let token = demo.slicectl(evidence, &[&create[..], &["--cluster", cluster]].concat())?;
    let join = ["join", token.trim(), "--kubeconfig", &worker, "--image-pull-policy", "Never"];
    demo.slicectl(evidence, &join)?;
    Ok(((), format!("{cluster} has joined with a token and reports")))
}

/// Shows what a person would look at first when something did not work.
pub(crate) fn diagnose(demo: &Demo) {
    let mut status = Command::new(demo.root.join("target/release/slicectl"));
    status.args(["status", "--kubeconfig", &demo.kubeconfig("hub")]);
    // It ends with 2 when something is not ready, which is why we are here.
    if let Ok(output) = status.output() {
        print(&String::from_utf8_lossy(&output.stdout));
    }
    for cluster in ["hub", "east", "west"] {
        let pods = run(demo.testbed.kubectl_command(cluster).args([
            "get",
            "pods",
            "-n",
            "slicewire-system",
            "-owide",
        ]));
        print(&format!("{cluster}:\n{}", pods.unwrap_or_else(|error| format!("{error:#}"))));
    }
}
