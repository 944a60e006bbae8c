//! What a slice's isolation profile comes to.

use super::*;

#[test]
fn an_isolation_profile_reaches_the_clusters_it_names_and_its_faults_are_told() {
    let profile = |namespace: &str, cluster: &str| {
        let profile = serde_json::json!({
            "isolationEnabled": true,
            "applicationNamespaces": [{"namespace": "shop", "clusters": ["*"]}],
            "allowedNamespaces": [{"namespace": namespace, "clusters": [cluster]}],
        });
        let mut config = config(&["10.77.0.0/16"], &["east", "west"]);
        config.spec.namespace_isolation_profile = Some(serde_json::from_value(profile).unwrap());
        config
    };
    let mut fake = world();
    fake.put(&profile("tools", "west"));
    settle(&mut fake);
    for (cluster, allowed) in [("east", &[][..]), ("west", &["tools".to_owned()][..])] {
        let spec = &slice(&fake, cluster).spec;
        assert_eq!(spec.isolation.clone().unwrap().allowed_namespaces, allowed, "{cluster}");
        assert_eq!(spec.namespaces[0].names, ["shop"], "{cluster}");
    }
    fake.put(&profile("Tools", "north"));
    let faults = validate::validate(&observe(&fake).unwrap()).unwrap_err();
    let told: Vec<_> = faults.iter().map(|f| (f.field.as_str(), f.reason)).collect();
    let list = "spec.namespaceIsolationProfile.allowedNamespaces[0]";
    let wanted = [("namespace", "NameCharacters"), ("clusters[0]", "UnknownCluster")];
    let wanted = wanted.map(|(field, reason)| (format!("{list}.{field}"), reason));
    assert_eq!(told, wanted.each_ref().map(|(field, reason)| (field.as_str(), *reason)));
}
