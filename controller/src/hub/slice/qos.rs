//! How much a slice may send: what it and its profile ask for together, and whether it can be had.

use kube::ResourceExt;
use slicewire_api::condition::QOS_HONOURED;
use slicewire_api::{QosLimits, SliceConfig, SliceQosProfile};
use slicewire_core::member::{sentence, word};
use slicewire_core::qos::{QosSource, spec};
use slicewire_core::violation::Violation;

use super::observe::{Observed, profile_of};
use crate::hub::Caches;

/// Every fault of what a slice asks for.
pub(super) fn faults(config: &SliceConfig, profile: Option<&SliceQosProfile>) -> Vec<Violation> {
    let Some(qos) = &config.spec.qos else { return Vec::new() };
    let clusters: Vec<String> = config.spec.clusters.iter().map(|c| c.name.clone()).collect();
    let source = profile.map(|p| (p.name_any(), QosSource::from(&p.spec)));
    let named = source.as_ref().map(|(name, source)| (name.as_str(), source));
    let mut faults = spec::faults("spec.qos", &qos.into(), named, &clusters);
    if let (Some(name), None) = (&qos.profile, profile) {
        let what = "is not a SliceQosProfile of this project; make it first, or correct the name";
        faults.push(Violation::new("spec.qos.profile", name, "UnknownProfile", what));
    }
    faults
}

/// The faults of a SliceQosProfile that somebody wants to store: its own, and those that slices
/// would have by it.
pub(in crate::hub) fn admit_profile(caches: &Caches, profile: &SliceQosProfile) -> Vec<Violation> {
    let mut faults = QosSource::from(&profile.spec).faults("spec", None);
    if !faults.is_empty() {
        return faults;
    }
    let (namespace, name) = (profile.namespace().unwrap_or_default(), profile.name_any());
    for config in caches.configs.list_in(&namespace) {
        if profile_of(&config) != Some(name.as_str()) {
            continue;
        }
        faults.extend(self::faults(&config, Some(profile)).into_iter().map(|fault| {
            let field = fault.field.replacen("spec.qos", "spec", 1);
            let message = format!("for SliceConfig {}: {}", config.name_any(), fault.message);
            Violation { field, message, ..fault }
        }));
    }
    faults
}

/// What holds for a slice in a cluster; `None` where nothing is asked for.
pub(super) fn in_cluster(
    config: &SliceConfig,
    profile: Option<&SliceQosProfile>,
    cluster: &str,
) -> Option<QosLimits> {
    let inline = QosSource::from(config.spec.qos.as_ref()?);
    let profile = profile.map(|p| QosSource::from(&p.spec));
    let limits = QosLimits::from(spec::effective(&inline, profile.as_ref(), cluster));
    (!limits.is_empty()).then_some(limits)
}

/// Whether all that is promised can be kept, a reason and a sentence; `None` where nothing is asked
/// for.
pub(super) fn honoured(observed: &Observed) -> Option<(bool, String, String)> {
    observed.config.spec.qos.as_ref()?;
    let mut broken: Option<(String, Vec<String>)> = None;
    let mut silent = Vec::new();
    for (cluster, slice) in observed.slices.iter().filter(|(_, s)| s.spec.qos.is_some()) {
        let conditions = slice.status.iter().flat_map(|s| &s.conditions);
        match conditions.into_iter().find(|c| c.type_ == QOS_HONOURED) {
            None => silent.push(cluster.to_string()),
            Some(c) if c.status == "True" => {}
            Some(c) => {
                let told = format!("{cluster}: {}", sentence(&c.message));
                broken.get_or_insert_with(|| (word(&c.reason), Vec::new())).1.push(told);
            }
        }
    }
    Some(match broken {
        Some((reason, told)) => (false, reason, told.join("; ")),
        None if !silent.is_empty() => {
            let what = format!("waiting for word from {}", silent.join(", "));
            (false, "WaitingForClusters".to_owned(), what)
        }
        None => (true, "Honoured".to_owned(), "All that is promised can be kept.".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use slicewire_api::{ClusterQos, SliceCluster, SliceConfigSpec, SliceQos, SliceQosProfileSpec};

    use super::*;

    fn limits(ceiling: &str, guarantee: &str) -> QosLimits {
        let some = |t: &str| (!t.is_empty()).then(|| t.to_owned());
        QosLimits { ceiling: some(ceiling), guarantee: some(guarantee), ..QosLimits::default() }
    }

    fn config(profile: Option<&str>, limits: QosLimits) -> SliceConfig {
        let clusters = ["east", "west"].map(|name| SliceCluster { name: name.to_owned() });
        let qos = SliceQos { profile: profile.map(str::to_owned), limits, clusters: vec![] };
        let spec = SliceConfigSpec {
            clusters: clusters.to_vec(),
            qos: Some(qos),
            ..SliceConfigSpec::default()
        };
        let mut config = SliceConfig::new("blue", spec);
        config.metadata.namespace = Some("slicewire-demo".into());
        config
    }

    fn gold(limits: QosLimits) -> SliceQosProfile {
        let west = ClusterQos { name: "west".into(), limits: self::limits("20M", "") };
        let spec = SliceQosProfileSpec { limits, clusters: vec![west], ..Default::default() };
        let mut profile = SliceQosProfile::new("gold", spec);
        profile.metadata.namespace = Some("slicewire-demo".into());
        profile
    }

    #[test]
    fn a_cluster_is_told_what_profile_and_slice_make_together() {
        let profile = gold(limits("100M", "10M"));
        let slice = config(Some("gold"), limits("", "15M"));
        assert_eq!(faults(&slice, Some(&profile)), []);
        assert_eq!(in_cluster(&slice, Some(&profile), "east"), Some(limits("100M", "15M")));
        assert_eq!(in_cluster(&slice, Some(&profile), "west"), Some(limits("20M", "15M")));
        assert_eq!(in_cluster(&config(None, QosLimits::default()), None, "east"), None);
    }

    #[test]
    fn a_profile_that_is_not_there_and_one_that_does_not_fit_are_refused() {
        let reasons = |faults: &[Violation]| faults.iter().map(|f| f.reason).collect::<Vec<_>>();
        let slice = config(Some("gold"), limits("1", "x"));
        let told = faults(&slice, None);
        assert_eq!(reasons(&told), ["RateRange", "MalformedRate", "UnknownProfile"]);
        let slice = config(Some("gold"), limits("", "50M"));
        let told = faults(&slice, Some(&gold(limits("100M", ""))));
        assert_eq!(reasons(&told), ["GuaranteeAboveCeiling"]);
        assert!(told[0].message.contains("in cluster west"), "{}", told[0].message);
    }

    #[test]
    fn a_profile_may_not_be_made_what_its_slices_cannot_have() {
        let caches = Caches::default();
        let slice = config(Some("gold"), limits("", "15M"));
        caches.configs.note(slice);
        assert_eq!(admit_profile(&caches, &gold(limits("100M", "10M"))), []);
        let told = admit_profile(&caches, &gold(limits("12M", "10M")));
        assert_eq!((told.len(), told[0].reason), (1, "GuaranteeAboveCeiling"));
        assert_eq!(told[0].field, "spec.guarantee");
        assert!(told[0].message.contains("SliceConfig blue"), "{}", told[0].message);
    }
}
