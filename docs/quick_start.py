import logging

import torch
from monai.data import DataLoader, create_test_image_3d
from monai.engines import SupervisedTrainer
from monai.handlers import StatsHandler
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.utils import set_determinism

from monai_kd import DistillationHandler, DistillationTerm, Distiller, FrozenTeacher
from monai_kd.adapters import ProjectionAdapter
from monai_kd.handlers import log_terms
from monai_kd.losses import HintLoss, SoftTargetLoss, TeacherDiceLoss

logging.basicConfig(level=logging.INFO, format="%(message)s")
set_determinism(0)
volumes = [create_test_image_3d(32, 32, 32, rad_max=8, num_seg_classes=2, channel_dim=0) for _ in range(16)]
loader = DataLoader([{"image": image, "label": label} for image, label in volumes], batch_size=4, shuffle=True)


def train(network, epochs, handlers=(), parameters=()):
    optimizer = torch.optim.AdamW([*network.parameters(), *parameters], lr=3e-3)
    loss, log = DiceCELoss(to_onehot_y=True, softmax=True), StatsHandler(output_transform=log_terms)
    SupervisedTrainer("cpu", epochs, loader, network, optimizer, loss, train_handlers=[*handlers, log]).run()


teacher, student = (UNet(3, 1, 3, channels=(w, 2 * w, 4 * w), strides=(2, 2), num_res_units=1) for w in (16, 4))
train(teacher, epochs=10)

bottleneck = "model.1.submodule.1.submodule"
terms = [
    DistillationTerm("soft_target", SoftTargetLoss(temperature=2.0)),
    DistillationTerm("teacher_dice", TeacherDiceLoss()),
    DistillationTerm("hint", HintLoss(), bottleneck, bottleneck, weight=0.1, adapter=ProjectionAdapter),
]
distiller = Distiller(student, FrozenTeacher(teacher), terms, input_shape=(2, 1, 32, 32, 32))
train(student, 5, [DistillationHandler(distiller)], distiller.parameters())
