"""What programming IPVS costs, beside ipvsadm and keepalived on the same kernel."""
