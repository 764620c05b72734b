"""Networks made of namespaces on this machine: NAT routers, hosts, a small internet."""
