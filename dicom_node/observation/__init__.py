"""What tells the outside how the node is: metrics, health, alarms, alerts, traces."""
