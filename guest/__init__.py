"""What runs inside the VM. The link ``kvmpc/_guest`` makes it the package ``kvmpc._guest``."""
