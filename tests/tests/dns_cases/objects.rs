//! The cluster that the cases are about, and what changes in it.

/// The cluster that is asked about.
pub(crate) const OBJECTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: shop}}
---
apiVersion: v1
kind: Namespace
metadata: {name: passing}
---
apiVersion: v1
kind: Service
metadata: {namespace: passing, name: web}
spec: {clusterIP: 10.96.1.20, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: web}
spec:
  clusterIP: 10.96.1.1
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: dns, port: 53, protocol: UDP}
  - {name: wire, port: 9, protocol: SCTP}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.244.1.1]}
- {addresses: [10.244.1.2], hostname: front}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: both}
spec:
  clusterIP: 10.96.1.2
  clusterIPs: [10.96.1.2, 'fd00:96::2']
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv4, IPv6]
  ports: [{name: http, port: 80}]
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: six}
spec: {clusterIP: 'fd00:96::4', ipFamilies: [IPv6], ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: bare}
spec: {clusterIP: 10.96.1.3, ports: [{port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: short}
spec: {clusterIP: 10.96.1.4, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: 10-244-1-1}
spec: {clusterIP: 10.96.1.6, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: outer}
spec: {type: LoadBalancer, clusterIP: 10.96.1.7, externalIPs: [192.0.2.9], ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: db}
spec: {clusterIP: None, ports: [{name: sql, port: 3306}, {name: admin, port: 3307}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: db-1, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: sql, port: 5432}, {name: admin, port: 5433}]
endpoints:
- {addresses: [10.244.2.1], hostname: db-0, conditions: {ready: true}}
- {addresses: [10.244.2.2], hostname: db-1}
- {addresses: [10.244.2.3]}
- {addresses: [10.244.2.4], conditions: {ready: false}}
- {addresses: [10.244.2.5], hostname: db-5, conditions: {ready: false, serving: true, terminating: true}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: db-2, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: sql, port: 5432}]
endpoints:
- {addresses: [10.244.2.3]}
- {addresses: [10.244.2.6], hostname: db-0}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: twin}
spec:
  clusterIP: None
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv4, IPv6]
  ports: [{name: http, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: twin-4, labels: {kubernetes.io/service-name: twin}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.244.3.1], hostname: twin-0}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: twin-6, labels: {kubernetes.io/service-name: twin}}
addressType: IPv6
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: ['fd00:244::3:1'], hostname: twin-0}
- {addresses: ['fd00:244:0:3::']}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: idle}
spec: {clusterIP: None, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: waiting}
spec: {clusterIP: None, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: waiting-1, labels: {kubernetes.io/service-name: waiting}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.244.4.1], conditions: {ready: false}}]
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: eager}
spec: {clusterIP: None, publishNotReadyAddresses: true, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: eager-1, labels: {kubernetes.io/service-name: eager}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.244.4.2], conditions: {ready: true, serving: false}}]
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: portless}
spec: {clusterIP: None}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: portless-1, labels: {kubernetes.io/service-name: portless}}
addressType: IPv4
endpoints: [{addresses: [10.244.4.3]}]
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: unnamed}
spec: {clusterIP: None, ports: [{port: 9000}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: unnamed-1, labels: {kubernetes.io/service-name: unnamed}}
addressType: IPv4
ports: [{port: 9001}]
endpoints: [{addresses: [10.244.4.4]}]
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: twice}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: twice-1, labels: {kubernetes.io/service-name: twice}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [10.244.2.2]}, {addresses: [10.96.1.1]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: orphan-1, labels: {kubernetes.io/service-name: orphan}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [10.244.4.9]}]
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: big}
spec: {clusterIP: None, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: out}
spec: {type: ExternalName, externalName: foo.example.com}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: near}
spec: {type: ExternalName, externalName: web.shop.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: far}
spec: {type: ExternalName, externalName: near.shop.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: lost}
spec: {type: ExternalName, externalName: none.shop.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: literal}
spec: {type: ExternalName, externalName: 192.0.2.7}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: corp}
spec: {type: ExternalName, externalName: web.shop.svc.corp.example}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: corp-none}
spec: {type: ExternalName, externalName: none.shop.svc.corp.example}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: corp-big}
spec: {type: ExternalName, externalName: big.shop.svc.corp.example}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: silent}
spec: {type: ExternalName, externalName: web.silent.example}
";

/// What becomes of it.
pub(crate) const CHANGES: &str = "
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: later}
spec: {clusterIP: 10.96.1.21, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: out}
spec: {type: ExternalName, externalName: bar.example.com}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: near}
spec: {type: ClusterIP, clusterIP: 10.96.1.22, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: bare}
spec: {type: ExternalName, externalName: foo.example.com}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: waiting-1, labels: {kubernetes.io/service-name: waiting}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.244.4.1], conditions: {ready: true}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: eager-1, labels: {kubernetes.io/service-name: eager}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.244.4.2], conditions: {ready: false}}]
";
