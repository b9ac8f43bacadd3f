"""One student from several sites that share neither data nor teachers. NVFlare, the extra ``federated``, carries it."""

from monai_kd.federated.averaging import average_weights
from monai_kd.federated.job import write_job
from monai_kd.federated.plan import FederationPlan, plan_federation
from monai_kd.federated.simulate import FederationError, simulate
from monai_kd.federated.site import FederatedSite, SiteRound

__all__ = [
    "FederatedSite",
    "FederationError",
    "FederationPlan",
    "SiteRound",
    "average_weights",
    "plan_federation",
    "simulate",
    "write_job",
]
