#!/bin/busybox sh
# PID 1 of the lab: mounts, modules, then the runner. However it ends, the machine ends with it.
export PATH=/bin HOME=/root
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mkdir -p /dev/shm /sys/kernel/tracing
mount -t tmpfs shm /dev/shm
mount -t tracefs tracefs /sys/kernel/tracing
echo "lab: userland after $(cut -d' ' -f1 /proc/uptime) s"
while read -r module parameters; do
    insmod "/lab/modules/$module.ko" $parameters || echo "lab: insmod $module failed"
done </lab/modules/order
export PYTHONHOME=/py PYTHONPATH=/lab/site LD_LIBRARY_PATH="$(cat /lab/library_path 2>/dev/null)"
/py/bin/python3 /lab/scripts/runner.py || echo "lab: the runner failed"
poweroff -f
