"""A static model of a target: what a choice costs there, estimated without a device."""
