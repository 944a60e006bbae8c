use super::*;

fn web() -> RawService {
    let ports = vec![RawPort { port: 80, ..RawPort::default() }];
    RawService { ports, families: vec!["IPv4".into()], ..RawService::default() }
}

fn raw(service: RawService) -> RawExport {
    RawExport { service: Some(service), ..RawExport::default() }
}

fn reasons(raw: &RawExport) -> Vec<&'static str> {
    parse(raw).err().into_iter().flatten().map(|f| f.reason).collect()
}

#[test]
fn what_kubernetes_leaves_out_is_its_default() {
    let export = parse(&raw(web())).unwrap();
    assert_eq!(export.kind, Kind::ClusterSetIp);
    assert_eq!(export.ports[0].protocol, Protocol::Tcp);
    assert_eq!(export.affinity, Affinity::None);
    assert_eq!(export.internal_traffic, InternalTraffic::Cluster);
    assert_eq!(export.families, BTreeSet::from([Family::V4]));
    let sticky = RawService { session_affinity: "ClientIP".into(), ..web() };
    let export = parse(&raw(sticky)).unwrap();
    assert_eq!(export.affinity, Affinity::ClientIp { timeout: 10_800 });
}

#[test]
fn every_type_with_endpoints_can_be_exported_headless_too() {
    for service_type in ["", "ClusterIP", "NodePort", "LoadBalancer"] {
        let service = RawService { service_type: service_type.into(), ..web() };
        assert!(parse(&raw(service)).is_ok(), "{service_type}");
    }
    let headless = RawService { cluster_ip: "None".into(), ports: vec![], ..web() };
    assert_eq!(parse(&raw(headless)).unwrap().kind, Kind::Headless);
}

#[test]
fn no_service_and_external_names_have_the_standards_reasons() {
    assert_eq!(reasons(&RawExport::default()), ["NoService"]);
    let external = RawService { service_type: "ExternalName".into(), ..web() };
    assert_eq!(reasons(&raw(external)), ["InvalidServiceType"]);
}

#[test]
fn every_fault_is_told_at_once_with_its_place() {
    let port = |name: &str, protocol: &str, port| RawPort {
        name: name.into(),
        protocol: protocol.into(),
        port,
        app_protocol: None,
    };
    let service = RawService {
        ports: vec![
            port("http", "TCP", 80),
            port("http", "TCP", 80),
            port("", "ICMP", 0),
            port("Bad_", "UDP", 70_000),
        ],
        session_affinity: "Maybe".into(),
        internal_traffic: "Nowhere".into(),
        families: vec!["IPv5".into()],
        distribution: Some("x".repeat(64)),
        ..web()
    };
    let mut export = raw(service);
    export.labels.insert("big".into(), "x".repeat(MAX_METADATA_BYTES));
    export.annotations = (0..65).map(|i| (format!("a{i}"), String::new())).collect();
    let faults = parse(&export).unwrap_err();
    let told: Vec<_> = faults.iter().map(|f| (f.field.as_str(), f.reason)).collect();
    assert_eq!(
        told,
        [
            ("spec.exportedLabels[big]", "TooMuchMetadata"),
            ("spec.exportedAnnotations", "TooMuchMetadata"),
            ("spec.ports[1].name", "DuplicatePort"),
            ("spec.ports[1].port", "DuplicatePort"),
            ("spec.ports[2].protocol", "Protocol"),
            ("spec.ports[2].port", "PortNumber"),
            ("spec.ports[2].name", "PortName"),
            ("spec.ports[3].port", "PortNumber"),
            ("spec.ports[3].name", "PortName"),
            ("spec.sessionAffinity", "SessionAffinity"),
            ("spec.internalTrafficPolicy", "InternalTrafficPolicy"),
            ("spec.ipFamilies[0]", "IPFamily"),
            ("spec.trafficDistribution", "TrafficDistribution"),
        ]
    );
    assert!(faults.iter().all(|f| !f.message.is_empty()));
}

#[test]
fn affinity_has_the_bounds_of_kubernetes() {
    let with = |timeout| {
        let affinity_timeout = Some(timeout);
        raw(RawService { session_affinity: "ClientIP".into(), affinity_timeout, ..web() })
    };
    for good in [1, 86_400] {
        assert_eq!(reasons(&with(good)), [""; 0]);
    }
    for bad in [-1, 0, 86_401] {
        assert_eq!(reasons(&with(bad)), ["AffinityTimeout"]);
    }
}

#[test]
fn a_weight_is_a_whole_number_or_a_fault_with_the_next_step() {
    let with = |text: &str| RawExport { weight: Some(text.to_owned()), ..raw(web()) };
    for (text, weight) in [("0", 0), ("7", 7), ("007", 7), ("1000", 1000)] {
        assert_eq!(parse(&with(text)).unwrap().weight, Some(weight), "{text}");
    }
    let plain = parse(&raw(web())).unwrap();
    assert_eq!((plain.weight, plain.no_weight), (None, None));
    for text in ["", " 5", "-1", "+5", "1001", "65541", "50%", "0.5", "\u{661}", "much"] {
        // What is exported already is not taken away for it.
        let export = parse(&with(text)).unwrap();
        assert_eq!(export.weight, None, "{text}");
        let fault = export.no_weight.unwrap();
        assert_eq!(fault.reason, "WeightRange");
        let told = fault.to_string();
        assert!(told.contains("slicewire.dev/weight") && told.contains("take it away"), "{told}");
    }
    let long = parse(&with(&"9".repeat(200_000))).unwrap().no_weight.unwrap();
    assert!(long.to_string().len() < 400, "a condition has room for it");
}
