//! The cluster that every proxy is measured with: N Services of ten endpoints each, as the JSON that an
//! API server sends.
//!
//! Objects are as large as real ones: they carry the labels, annotations and `managedFields` that the
//! controllers of a cluster write.

use std::fmt::Write;
use std::net::Ipv4Addr;

/// Endpoints of each Service, unless something else is asked for.
pub(crate) const ENDPOINTS: u32 = 10;
/// Where a cluster's pods have their addresses.
pub(crate) const POD_RANGE: &str = "10.128.0.0/9";
/// The part of it that endpoints have theirs in.
pub(crate) const ENDPOINT_RANGE: &str = "10.128.0.0/10";
/// Where those of the first Service are, and some of the second's: on another node, where connections are measured.
pub(crate) const FAR_RANGE: &str = "10.128.0.0/28";
/// Where Services have theirs.
pub(crate) const SERVICE_RANGE: &str = "10.96.0.0/12";
/// The port of every Service.
pub(crate) const SERVICE_PORT: u16 = 80;
/// The port of every endpoint.
pub(crate) const ENDPOINT_PORT: u16 = 8080;
/// The node that is measured.
pub(crate) const NODE: &str = "node-1";
/// Its address.
pub(crate) const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Each of these first Services has a node port.
const NODE_PORTS: u32 = 500;

/// How much there is of a cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) services: u32,
    /// Of each Service.
    pub(crate) endpoints: u32,
    /// All pods; the first ones are the endpoints.
    pub(crate) pods: u32,
}

impl Size {
    /// What proxies are measured with. They do not read pods.
    pub(crate) fn of(services: u32) -> Self {
        Self { services, endpoints: ENDPOINTS, pods: 0 }
    }

    /// The addresses of a Service's endpoints, in the beginning.
    pub(crate) fn endpoints(self, service: u32) -> Vec<Ipv4Addr> {
        let first = service * self.endpoints;
        (first..first + self.endpoints).map(pod_address).collect()
    }
}

/// The address of a pod, in the beginning.
fn pod_address(pod: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 0)) + pod)
}

/// The address of Service number `service`.
pub(crate) fn cluster_ip(service: u32) -> Ipv4Addr {
    // The first addresses are those of the cluster's own Services.
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 0)) + service)
}

/// The port of the node that leads to Service number `service`, if it has one.
pub(crate) fn node_port(service: u32) -> Option<u16> {
    (service < NODE_PORTS).then(|| 30_000 + service as u16)
}

/// The address of an endpoint, in the beginning.
pub(crate) fn endpoint(service: u32, index: u32) -> Ipv4Addr {
    pod_address(service * ENDPOINTS + index)
}

/// The address of the endpoint that takes another's place in change number `change`: each is used
/// once, so that it is known by what in the kernel has that address.
pub(crate) fn new_endpoint(change: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 160, 0, 0)) + change)
}

/// The addresses of a Service's endpoints, in the beginning.
pub(crate) fn endpoints(service: u32) -> Vec<Ipv4Addr> {
    Size::of(service + 1).endpoints(service)
}

/// Name of Service number `service`; its namespace is `team-K`.
pub(crate) fn name(service: u32) -> String {
    format!("service-{service:05}")
}

/// How many namespaces they are in.
const NAMESPACES: u32 = 50;

fn namespace(service: u32) -> String {
    format!("team-{:02}", service % NAMESPACES)
}

/// The name of Service number `service` in DNS, without a dot at its end.
pub(crate) fn dns_name(service: u32) -> String {
    format!("{}.{}.svc.cluster.local", name(service), namespace(service))
}

/// The Namespaces as JSON.
pub(crate) fn namespaces() -> impl Iterator<Item = String> {
    let metadata = |number| {
        let name = namespace(number);
        format!(
            r#"{{"metadata":{{"name":"{name}","uid":"4a3e0000-0000-4000-8000-{number:012x}","resourceVersion":"1","creationTimestamp":"2026-01-01T00:00:00Z"}},"spec":{{"finalizers":["kubernetes"]}},"status":{{"phase":"Active"}}}}"#
        )
    };
    (0..NAMESPACES).map(metadata)
}

fn metadata(kind: &str, service: u32, name: &str, version: u64, more: &str) -> String {
    let namespace = namespace(service);
    format!(
        r#""metadata":{{"name":"{name}","namespace":"{namespace}","uid":"{kind:0>8}-0000-4000-8000-{service:012x}","resourceVersion":"{version}","generation":1,"creationTimestamp":"2026-01-01T00:00:00Z"{more}}}"#
    )
}

/// A Service as JSON.
pub(crate) fn service(service: u32, version: u64) -> String {
    let name = name(service);
    let ip = cluster_ip(service);
    let (service_type, node_port) = match node_port(service) {
        Some(port) => ("NodePort", format!(r#","nodePort":{port}"#)),
        None => ("ClusterIP", String::new()),
    };
    let more = format!(
        r#","labels":{{"app":"{name}","app.kubernetes.io/managed-by":"Helm"}},"annotations":{{"meta.helm.sh/release-name":"{name}","meta.helm.sh/release-namespace":"{}"}},"managedFields":[{{"manager":"helm","operation":"Update","apiVersion":"v1","time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{{"f:metadata":{{"f:annotations":{{".":{{}},"f:meta.helm.sh/release-name":{{}},"f:meta.helm.sh/release-namespace":{{}}}},"f:labels":{{".":{{}},"f:app":{{}},"f:app.kubernetes.io/managed-by":{{}}}}}},"f:spec":{{"f:internalTrafficPolicy":{{}},"f:ports":{{".":{{}},"k:{{\"port\":80,\"protocol\":\"TCP\"}}":{{".":{{}},"f:name":{{}},"f:port":{{}},"f:protocol":{{}},"f:targetPort":{{}}}}}},"f:selector":{{}},"f:sessionAffinity":{{}},"f:type":{{}}}}}}}}]"#,
        namespace(service),
    );
    let metadata = metadata("5e", service, &name, version, &more);
    format!(
        r#"{{{metadata},"spec":{{"ports":[{{"name":"http","protocol":"TCP","port":{SERVICE_PORT},"targetPort":"http"{node_port}}}],"selector":{{"app":"{name}"}},"clusterIP":"{ip}","clusterIPs":["{ip}"],"type":"{service_type}","sessionAffinity":"None","ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack","internalTrafficPolicy":"Cluster"}},"status":{{"loadBalancer":{{}}}}}}"#
    )
}

/// Name of the slice of Service number `service`.
pub(crate) fn slice_name(service: u32) -> String {
    format!("{}-x7k2p", name(service))
}

/// The EndpointSlice of a Service as JSON.
pub(crate) fn slice(service: u32, version: u64, endpoints: &[Ipv4Addr]) -> String {
    let (name, namespace) = (name(service), namespace(service));
    let more = format!(
        r#","generateName":"{name}-","labels":{{"app":"{name}","app.kubernetes.io/managed-by":"Helm","endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io","kubernetes.io/service-name":"{name}"}},"annotations":{{"endpoints.kubernetes.io/last-change-trigger-time":"2026-01-01T00:00:00Z"}},"ownerReferences":[{{"apiVersion":"v1","kind":"Service","name":"{name}","uid":"5e000000-0000-4000-8000-{service:012x}","controller":true,"blockOwnerDeletion":true}}],"managedFields":[{{"manager":"kube-controller-manager","operation":"Update","apiVersion":"discovery.k8s.io/v1","time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{{"f:addressType":{{}},"f:endpoints":{{}},"f:metadata":{{"f:annotations":{{".":{{}},"f:endpoints.kubernetes.io/last-change-trigger-time":{{}}}},"f:generateName":{{}},"f:labels":{{".":{{}},"f:app":{{}},"f:app.kubernetes.io/managed-by":{{}},"f:endpointslice.kubernetes.io/managed-by":{{}},"f:kubernetes.io/service-name":{{}}}},"f:ownerReferences":{{".":{{}},"k:{{\"uid\":\"5e\"}}":{{}}}}}},"f:ports":{{}}}}}}]"#
    );
    let metadata = metadata("e5", service, &slice_name(service), version, &more);
    let mut json = format!(r#"{{{metadata},"addressType":"IPv4","endpoints":["#);
    for (index, address) in endpoints.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        // One node runs pods of few Services: no endpoint is on the measured one.
        let node = 2 + (service.wrapping_mul(7) + index as u32) % 100;
        let zone = node % 3;
        let pod = pod_name(service, *address);
        let uid = pod_uid(*address);
        // Writing into a String can't fail.
        let _ = write!(
            json,
            r#"{comma}{{"addresses":["{address}"],"conditions":{{"ready":true,"serving":true,"terminating":false}},"targetRef":{{"kind":"Pod","namespace":"{namespace}","name":"{pod}","uid":"{uid}"}},"nodeName":"node-{node}","zone":"zone-{zone}"}}"#
        );
    }
    json.push_str(&format!(
        r#"],"ports":[{{"name":"http","protocol":"TCP","port":{ENDPOINT_PORT}}}]}}"#
    ));
    json
}

fn pod_name(service: u32, address: Ipv4Addr) -> String {
    format!("{}-6d4cf56db6-{:06x}", name(service), u32::from(address) & 0xff_ffff)
}

fn pod_uid(address: Ipv4Addr) -> String {
    format!("90000000-0000-4000-8000-{:012x}", u32::from(address))
}

/// A pod of a cluster of that size as JSON.
pub(crate) fn pod(size: Size, pod: u32, version: u64) -> String {
    let address = pod_address(pod);
    let service = pod / size.endpoints % size.services;
    let (owner, namespace) = (name(service), namespace(service));
    let (name, uid) = (pod_name(service, address), pod_uid(address));
    let node = 2 + pod % 3000;
    format!(
        r#"{{"metadata":{{"name":"{name}","generateName":"{owner}-6d4cf56db6-","namespace":"{namespace}","uid":"{uid}","resourceVersion":"{version}","creationTimestamp":"2026-01-01T00:00:00Z","labels":{{"app":"{owner}","pod-template-hash":"6d4cf56db6"}},"ownerReferences":[{{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"{owner}-6d4cf56db6","uid":"7e000000-0000-4000-8000-{service:012x}","controller":true,"blockOwnerDeletion":true}}],"managedFields":[{{"manager":"kube-controller-manager","operation":"Update","apiVersion":"v1","time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{{"f:metadata":{{"f:generateName":{{}},"f:labels":{{".":{{}},"f:app":{{}},"f:pod-template-hash":{{}}}},"f:ownerReferences":{{".":{{}},"k:{{\"uid\":\"7e\"}}":{{}}}}}},"f:spec":{{"f:containers":{{"k:{{\"name\":\"app\"}}":{{".":{{}},"f:image":{{}},"f:imagePullPolicy":{{}},"f:name":{{}},"f:ports":{{".":{{}},"k:{{\"containerPort\":8080,\"protocol\":\"TCP\"}}":{{".":{{}},"f:containerPort":{{}},"f:name":{{}},"f:protocol":{{}}}}}},"f:resources":{{}},"f:terminationMessagePath":{{}},"f:terminationMessagePolicy":{{}}}}}},"f:dnsPolicy":{{}},"f:enableServiceLinks":{{}},"f:restartPolicy":{{}},"f:schedulerName":{{}},"f:securityContext":{{}},"f:terminationGracePeriodSeconds":{{}}}}}}}}]}},"spec":{{"volumes":[{{"name":"kube-api-access","projected":{{"sources":[{{"serviceAccountToken":{{"expirationSeconds":3607,"path":"token"}}}}],"defaultMode":420}}}}],"containers":[{{"name":"app","image":"registry.example/app:1.0","ports":[{{"name":"http","containerPort":{ENDPOINT_PORT},"protocol":"TCP"}}],"resources":{{}},"volumeMounts":[{{"name":"kube-api-access","readOnly":true,"mountPath":"/var/run/secrets/kubernetes.io/serviceaccount"}}],"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent"}}],"restartPolicy":"Always","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","serviceAccountName":"default","nodeName":"node-{node}","securityContext":{{}},"schedulerName":"default-scheduler","enableServiceLinks":true}},"status":{{"phase":"Running","conditions":[{{"type":"Ready","status":"True","lastTransitionTime":"2026-01-01T00:00:00Z"}}],"hostIP":"192.0.2.2","podIP":"{address}","podIPs":[{{"ip":"{address}"}}],"startTime":"2026-01-01T00:00:00Z","qosClass":"BestEffort"}}}}"#
    )
}

/// The measured Node as JSON.
pub(crate) fn node(version: u64) -> String {
    format!(
        r#"{{"metadata":{{"name":"{NODE}","uid":"0de00000-0000-4000-8000-000000000001","resourceVersion":"{version}","creationTimestamp":"2026-01-01T00:00:00Z","labels":{{"kubernetes.io/hostname":"{NODE}","topology.kubernetes.io/zone":"zone-1"}}}},"spec":{{"podCIDR":"10.128.0.0/24","podCIDRs":["10.128.0.0/24"]}},"status":{{"addresses":[{{"type":"InternalIP","address":"{NODE_ADDRESS}"}},{{"type":"Hostname","address":"{NODE}"}}],"conditions":[{{"type":"Ready","status":"True"}}]}}}}"#
    )
}

/// The range of Services as JSON.
pub(crate) fn service_cidr(version: u64) -> String {
    format!(
        r#"{{"metadata":{{"name":"kubernetes","uid":"c1d00000-0000-4000-8000-000000000001","resourceVersion":"{version}","creationTimestamp":"2026-01-01T00:00:00Z"}},"spec":{{"cidrs":["{SERVICE_RANGE}"]}},"status":{{"conditions":[{{"type":"Ready","status":"True"}}]}}}}"#
    )
}
