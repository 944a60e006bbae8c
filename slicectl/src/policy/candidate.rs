//! A change of policies that somebody thinks of: files, deletions, and what the hub says to them.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kube::api::PostParams;
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use slicewire_api::{SliceConfig, SlicePolicy};

use super::known::{Known, Slice, project};
use crate::apply::{MANAGER, is_gone};

/// What would be applied and deleted.
#[derive(Debug, Default)]
pub(super) struct Change {
    policies: Vec<SlicePolicy>,
    configs: Vec<SliceConfig>,
    /// Project and name.
    deleted: Vec<(String, String)>,
}

impl Change {
    /// Reads what is asked for.
    ///
    /// # Errors
    /// A file cannot be read, or holds something else, or nothing is asked for.
    pub(super) fn read(files: &[PathBuf], deleted: &[String]) -> Result<Self> {
        let mut change = Self::default();
        for path in files {
            let text = text(path)?;
            change.take(&text).with_context(|| path.display().to_string())?;
        }
        for name in deleted {
            let (project, name) = name
                .split_once('/')
                .with_context(|| format!("--delete {name}: say <project>/<name>"))?;
            change.deleted.push((project.to_owned(), name.to_owned()));
        }
        if change.policies.is_empty() && change.configs.is_empty() && change.deleted.is_empty() {
            bail!("nothing to compare: say -f FILE or --delete PROJECT/NAME");
        }
        Ok(change)
    }

    fn take(&mut self, text: &str) -> Result<()> {
        for document in serde_yaml_ng::Deserializer::from_str(text) {
            let value = Value::deserialize(document).context("is no YAML")?;
            if value.is_null() {
                continue;
            }
            let version = format!("{}/{}", slicewire_api::GROUP, slicewire_api::VERSION);
            let (api, kind) = (value["apiVersion"].as_str(), value["kind"].as_str());
            match (api.unwrap_or_default() == version, kind.unwrap_or_default()) {
                (true, "SlicePolicy") => self.policies.push(object(value)?),
                (true, "SliceConfig") => self.configs.push(object(value)?),
                (_, kind) => bail!(
                    "holds a {} {kind}; only SlicePolicies and SliceConfigs of {version} can be compared",
                    api.unwrap_or_default()
                ),
            }
        }
        Ok(())
    }

    /// Has the hub judge every object as if it were applied, without storing it: what comes back is
    /// what would be stored.
    ///
    /// # Errors
    /// Everything it would refuse, with all faults.
    pub(super) async fn admitted(mut self, client: &Client) -> Result<Self> {
        let mut refused = Vec::new();
        for policy in &mut self.policies {
            try_out(client, policy, |p, new| p.spec = new.spec, &mut refused).await;
        }
        for config in &mut self.configs {
            try_out(client, config, |c, new| c.spec = new.spec, &mut refused).await;
        }
        if refused.is_empty() { Ok(self) } else { bail!("{}", refused.join("\n")) }
    }

    /// What the hub would know afterwards.
    ///
    /// # Errors
    /// A policy that is to be deleted is not there.
    pub(super) fn made(&self, before: &Known) -> Result<Known> {
        let mut after = before.clone();
        for config in &self.configs {
            let Some(project) = project(config.namespace()) else { continue };
            let key = (project, config.name_any());
            let slice = after.slices.entry(key).or_insert_with(|| Slice::new(config.clone()));
            slice.config = config.clone();
        }
        for policy in &self.policies {
            let Some(project) = project(policy.namespace()) else { continue };
            remove(&mut after, &project, &policy.name_any());
            let key = (project, policy.spec.slice.clone());
            if let Some(slice) = after.slices.get_mut(&key) {
                slice.policies.insert(policy.name_any(), policy.clone());
            }
        }
        for (project, name) in &self.deleted {
            if !remove(&mut after, project, name) {
                bail!("there is no SlicePolicy {name} in project {project} that could be deleted");
            }
        }
        Ok(after)
    }
}

/// Takes a policy out of whatever slice it is of.
fn remove(known: &mut Known, project: &str, name: &str) -> bool {
    let slices = known.slices.iter_mut().filter(|((of, _), _)| of == project);
    let mut found = false;
    for (_, slice) in slices {
        found |= slice.policies.remove(name).is_some();
        slice.told.remove(name);
    }
    found
}

fn object<K: Resource + DeserializeOwned + Serialize>(value: Value) -> Result<K> {
    let object: K = serde_json::from_value(value.clone()).context("is not what its kind wants")?;
    let unknown = unknown(&value["spec"], &serde_json::to_value(&object)?["spec"], "spec");
    if !unknown.is_empty() {
        bail!("has fields that its kind does not know: {}", unknown.join(", "));
    }
    if project(object.meta().namespace.clone()).is_none() {
        bail!(
            "{}: metadata.namespace must be a project's, as slicewire-demo",
            object.meta().name.clone().unwrap_or_default()
        );
    }
    Ok(object)
}

/// Fields that were written and are not taken in. Empty ones mean nothing either way.
fn unknown(written: &Value, taken: &Value, at: &str) -> Vec<String> {
    match (written, taken) {
        (Value::Object(written), Value::Object(taken)) => {
            let each = |(key, value): (&String, &Value)| {
                let at = format!("{at}.{key}");
                match taken.get(key) {
                    Some(taken) => unknown(value, taken, &at),
                    None if is_empty(value) => Vec::new(),
                    None => vec![at],
                }
            };
            written.iter().flat_map(each).collect()
        }
        (Value::Array(written), Value::Array(taken)) => {
            let all = written.iter().zip(taken).enumerate();
            all.flat_map(|(i, (written, taken))| unknown(written, taken, &format!("{at}[{i}]")))
                .collect()
        }
        _ => Vec::new(),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_empty),
        _ => false,
    }
}

fn text(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Replaces or creates an object in a dry run.
async fn try_out<K>(
    client: &Client,
    object: &mut K,
    take: impl FnOnce(&mut K, K),
    refused: &mut Vec<String>,
) where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    K: Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    let name = object.name_any();
    let api: Api<K> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let how = PostParams { dry_run: true, field_manager: Some(MANAGER.into()) };
    let judged = async {
        match api.get(&name).await {
            Ok(there) => {
                let mut wanted = object.clone();
                *wanted.meta_mut() = there.meta().clone();
                api.replace(&name, &how, &wanted).await
            }
            Err(error) if is_gone(&error) => api.create(&how, object).await,
            Err(error) => Err(error),
        }
    };
    match judged.await {
        Ok(new) => take(object, new),
        Err(error) => refused.push(format!("the hub refuses {} {name}: {error}", K::kind(&()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "
apiVersion: slicewire.dev/v1alpha1
kind: SlicePolicy
metadata: {name: cut, namespace: slicewire-demo}
spec: {slice: blue, priority: 3, egress: []}
---
";

    fn known() -> Known {
        let mut known = Known::default();
        for name in ["blue", "red"] {
            let slice = Slice::new(SliceConfig::new(name, Default::default()));
            known.slices.insert(("demo".into(), name.into()), slice);
        }
        known
    }

    #[test]
    fn a_policy_that_moves_to_another_slice_leaves_its_first() {
        let mut change = Change::default();
        change.take(POLICY).unwrap();
        let mut before = change.made(&known()).unwrap();
        let blue = ("demo".to_owned(), "blue".to_owned());
        assert!(before.slices[&blue].policies.contains_key("cut"));
        let mut moved = Change::default();
        moved.take(&POLICY.replace("blue", "red")).unwrap();
        before = moved.made(&before).unwrap();
        assert!(before.slices[&blue].policies.is_empty());
        let gone = Change { deleted: vec![("demo".into(), "cut".into())], ..Change::default() };
        let after = gone.made(&before).unwrap();
        assert!(after.slices.values().all(|s| s.policies.is_empty()));
        assert!(gone.made(&after).unwrap_err().to_string().contains("no SlicePolicy cut"));
    }

    #[test]
    fn what_cannot_be_compared_is_told() {
        let mut change = Change::default();
        let other = change.take("{apiVersion: v1, kind: Pod}").unwrap_err().to_string();
        assert!(other.contains("v1 Pod"), "{other}");
        let lost = POLICY.replace(", namespace: slicewire-demo", "");
        let lost = change.take(&lost).unwrap_err().to_string();
        assert!(lost.contains("metadata.namespace"), "{lost}");
        let typo = POLICY.replace("egress: []", "egress: [{ation: Deny, peers: []}], ingres: []");
        let typo = change.take(&typo).unwrap_err().to_string();
        assert!(typo.contains("spec.egress[0].ation") && !typo.contains("ingres,"), "{typo}");
        assert!(Change::read(&[], &[]).is_err());
        assert!(Change::read(&[], &["cut".into()]).is_err());
    }
}
